(() => {
  const { items, neighbors } = JSON.parse(document.getElementById("similar-data").textContent);
  const drawer = document.querySelector(".drawer");
  const strip = drawer.querySelector(".strip");
  const title = drawer.querySelector("p");
  const place = (number) => document.querySelector(`[data-item="${number}"]`);
  const picture = (number) => {
    const own = items[number].picture;
    return own === null ? place(number).parentElement.querySelector("img").src : own;
  };

  function card(number, text) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.shows = number;
    button.title = items[number].where;
    const image = document.createElement("img");
    image.src = picture(number);
    image.alt = items[number].name;
    const lines = [items[number].name, text].map((content) => {
      const line = document.createElement("span");
      line.textContent = content;
      return line;
    });
    button.append(image, ...lines);
    button.addEventListener("click", () => {
      show(number);
      place(number).scrollIntoView({ block: "center", behavior: "smooth" });
    });
    return button;
  }

  function show(number) {
    document.querySelectorAll(".look").forEach((e) => e.classList.remove("chosen", "found"));
    place(number).classList.add("chosen");
    neighbors[number].forEach(([other]) => place(other).classList.add("found"));
    const subtitle = document.createElement("span");
    subtitle.textContent = items[number].name;
    title.replaceChildren("Looks like ", subtitle);
    strip.replaceChildren(
      card(number, "searched"),
      ...neighbors[number].map(([other, cosine]) => card(other, cosine.toFixed(2))),
    );
    strip.scrollLeft = 0;
    drawer.hidden = false;
  }

  function hide() {
    document.querySelectorAll(".look").forEach((e) => e.classList.remove("chosen", "found"));
    drawer.hidden = true;
  }

  document.querySelectorAll(".look").forEach((element) =>
    element.addEventListener("click", () => show(Number(element.dataset.item))));
  drawer.querySelector(".close").addEventListener("click", hide);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
})();
