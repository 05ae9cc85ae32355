"""Show what a trained run's answers rest on.

python -m experiments.explain runs/NAME photo.jpg                      # Grad-CAM of its answers
python -m experiments.explain runs/NAME photos --method occlusion --class cat
python -m experiments.explain runs/NAME photo.jpg --method features --stage stage2
python -m experiments.explain runs/NAME --method filters               # of the first layer
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import numpy as np
from flax import traverse_util
from PIL import Image

from cnn_jax import files
from cnn_jax.errors import UserError, nearest
from cnn_jax.explanations.grad_cam import grad_cam
from cnn_jax.explanations.maps import checked_stage, map_shapes
from cnn_jax.explanations.occlusion import occlusion
from cnn_jax.models.starts import convolutions
from cnn_jax.progress import track
from cnn_jax.reports.boxes import Mark, Scene, Scenes, draw_boxes, sheet
from cnn_jax.reports.heat import enlarged, filter_sheet, map_sheet, overlay, peak, placed
from cnn_jax.reports.page import render
from cnn_jax.reports.pictures import save
from cnn_jax.training.backend import compile_inference

from .. import options as flags
from ..predict import LoadedRun, trained_by, verb_of
from ..predict.inputs import expanded
from ..predict.names import output_names, require_other_files
from ..predict.predictor import Found, class_names
from .subject import Question, View
from .subjects import SUBJECTS

PAGE = "explained.html"
FOLDER = "explained"
"""The folder below a run's where pictures go unless the user names one."""

Method = Literal["grad_cam", "occlusion", "features", "filters"]

# The square of an occlusion, as a share of the image's shorter side, and its steps, of its own.
_PATCH, _STEP = 4, 4

_NOTES = {
    "grad_cam": "Red is where the map {stage} speaks for the answer, up to the strongest "
    "(Grad-CAM, Selvaraju et al. 2017).",
    "occlusion": "Red is where a grey square of {patch} pixels lowers the answer's probability, up "
    "to the largest fall; blue is where it raises it (Zeiler & Fergus 2014).",
    "features": "The maps of {stage} with the strongest activations, each from its lowest value in "
    "black to its highest in white.",
}


@dataclass(frozen=True)
class Options:
    """Show which parts of your images a trained run's answers rest on."""

    verb: ClassVar[str] = "explain"

    run: str = flags.flag("", positional=True, metavar="RUN")
    """Folder of a run that classifies, annotates, detects or segments."""
    images: tuple[str, ...] = flags.flag((), positional=True, metavar="IMAGE")
    """Images: files, folders, patterns such as `**/*.jpg`, and `@FILE` with one in each line."""
    out: str | None = flags.flag(None, aliases="output-dir directory", metavar="DIR")
    """Folder for the pictures and the page. Default: RUN/explained."""
    method: Method = "grad_cam"
    """grad_cam: where a map of the network speaks for the answer; occlusion: where a grey square
    makes it less probable; features: a stage's maps; filters: those of the first convolution."""
    answer: str | None = flags.flag(
        None, aliases="class", metavar="NAME|N", only={"method": ("grad_cam", "occlusion")}
    )
    """Class that is explained, by its name or its number from 0; also typed as `--class`. Default:
    what the run answers."""
    stage: str | None = flags.flag(None, metavar="NAME", only={"method": ("grad_cam", "features")})
    """Map of the network, such as stage2. Default: the coarsest."""
    patch: int | None = flags.flag(None, minimum=1, maximum=65_536, only={"method": ("occlusion",)})
    """Side of the grey square, in pixels of the image that the network sees. Default: a quarter of
    its shorter side."""
    top: int = flags.flag(
        3, minimum=1, maximum=1000, only={"method": ("grad_cam", "occlusion")}, aliases="topk top-k"
    )
    """Answers that are explained of each image, at most: classes, labels or objects."""
    score_threshold: float | None = flags.least_score(
        only={"verb": ("detect",)}, unless={"method": ("features", "filters")}
    )
    """Lowest score of a detection that is explained. Default: the run's own, which was chosen on
    its evaluation data."""
    state: Literal["best", "last"] | None = None
    """State of the run that is explained. Default: the best, where the run keeps it."""


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags, and draw what they ask for."""
    options = flags.parse_plain(Options, argv, trained_by)
    pictures = options.method != "filters"
    if not options.run or bool(options.images) != pictures:
        raise UserError(
            "give a run's folder and at least one image: explain RUN IMAGE..."
            if pictures
            else "give a run's folder alone: explain RUN --method filters"
        )
    verb = verb_of(options.run)
    if verb not in SUBJECTS:
        raise UserError(f"{options.run}: a run of {verb}; one of {', '.join(SUBJECTS)} has images")
    inputs = expanded(options.images)
    explainer = Explainer(options, verb, inputs)
    out = Path(options.out) if options.out else Path(options.run) / FOLDER
    if not pictures:
        save(out / "filters.png", Image.fromarray(explainer.filters()))
        print(f"the filters of {explainer.first_layer}: {out / 'filters.png'}")
        return
    names = output_names(inputs)
    written = [out / f"{name}.png" for name in names]
    require_other_files(inputs, map(str, written))
    sections = []
    for given, path, (scenes, line) in zip(
        inputs, written, explainer.explained(track(inputs, "explaining")), strict=True
    ):
        save(path, sheet(scenes, columns=4, width=320))
        print(f"{given}: {line} -> {path}")
        sections.append(Scenes(Path(given).name, scenes))
    title = f"{Path(options.run).resolve().name}: {options.method.replace('_', '-')}"
    files.replace(out / PAGE, render(title, explainer.note, sections))
    print(f"page: {out / PAGE}")


class Explainer:
    """A run whose answers are explained.

    Args:
        options: those of the command.
        verb: the one that trained the run.
        inputs: the images.

    Raises:
        UserError: the run cannot be restored, or has no such class or map.
    """

    def __init__(self, options: Options, verb: str, inputs: Sequence[str]) -> None:
        run = Path(options.run)
        self._options, self._names = options, class_names(run)
        self._label = _label(options.answer, self._names)
        settings = {
            "classify": {"top": options.top},
            "detect": {"score_threshold": options.score_threshold},
        }.get(verb, {})
        loaded = LoadedRun(
            flags.PredictOptions(
                run=options.run, images=tuple(inputs), state=options.state, batch_size=1, **settings
            )
        )
        print(loaded.network.told, file=sys.stderr)
        self.outcomes = loaded.network.outcomes
        self._task = loaded.predictor.task
        self.variables = loaded.network.state.variables
        self.subject = SUBJECTS[verb](loaded.predictor, self._names)
        self._outputs = compile_inference(self.subject.outputs)
        self._features = compile_inference(
            lambda variables, images, given: self.subject.network(variables, given)(images)[1]
        )
        self._methods: dict[Any, Callable[..., jax.Array]] = {}
        self.note = ""

    def explained(self, inputs: Iterable[str]) -> Iterator[tuple[list[Scene], str]]:
        """Pictures of each image and the explanations of its answers, and a line about them."""
        for name, content, found in self.outcomes(inputs):
            view = self._seen(str(name), content)
            if self._options.method == "features":
                yield self._mapped(view)
            else:
                yield self._answers(found, view)

    @property
    def first_layer(self) -> str:
        """The name of the first convolution."""
        return "/".join(next(iter(convolutions(self._task.model, self._task.network_input))))

    def filters(self) -> np.ndarray:
        """The filters of the first convolution, as a picture."""
        kernels = traverse_util.flatten_dict(self.variables["params"], sep="/")
        return filter_sheet(np.asarray(kernels[f"{self.first_layer}/kernel"], np.float32))

    def _seen(self, name: str, content: np.ndarray) -> View:
        try:
            return self.subject.view(content)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None

    def _stage(self, view: View) -> str:
        """The map that is explained."""
        shapes = map_shapes(self.subject.network(self.variables, view.given), view.images)
        return checked_stage(shapes, self._options.stage)

    def _mapped(self, view: View) -> tuple[list[Scene], str]:
        stage = self._stage(view)
        features = self._features(self.variables, view.images, view.given)
        maps = np.asarray(features[stage][0], np.float32)
        rows, columns, count = maps.shape
        self.note = _NOTES["features"].format(stage=stage)
        caption = f"{stage}: {rows} x {columns} x {count}"
        scenes = [_scene(view.picture, "image"), _scene(map_sheet(maps), caption)]
        return scenes, caption

    def _answers(self, found: Found, view: View) -> tuple[list[Scene], str]:
        outputs = jax.device_get(self._outputs(self.variables, view.images, view.given))
        questions = self.subject.questions(outputs, view, found, self._label)
        questions = questions[: self._options.top]
        scenes = [_scene(view.picture, "image")]
        for question, values in zip(
            questions, self.evidence(outputs, questions, view), strict=True
        ):
            heat = overlay(view.picture, values)
            row, column = peak(values)
            marks = [] if question.box is None else [Mark(np.array(question.box, np.float32))]
            scenes.append(_scene(heat, question.caption, marks, f"peak at {column} {row}"))
        line = "; ".join(question.caption for question in questions)
        return scenes, line or "no such answer"

    def evidence(
        self, outputs: Any, questions: Sequence[Question], view: View
    ) -> Iterator[np.ndarray]:
        """The evidence for each answer at every pixel of the picture."""
        rows, columns = view.picture.shape[:2]
        for question in questions:
            asked = jax.tree.map(lambda x: x[None], self.subject.asked(outputs, question))
            seen = self.subject.focused(view, question)
            method = self._method(seen)
            (values,) = np.asarray(method(self.variables, seen.images, seen.given, asked))
            whole = enlarged(values, seen.images.shape[1:3])
            top, left, height, width = seen.shown
            shown = whole[top : top + height, left : left + width]
            yield placed(shown, seen.place or (0, 0, rows, columns), (rows, columns))

    def _method(self, view: View) -> Callable[..., jax.Array]:
        """The compiled method for inputs of a shape."""
        shape = view.images.shape
        if shape in self._methods:
            return self._methods[shape]
        subject, options = self.subject, self._options
        if options.method == "grad_cam":
            stage = self._stage(view)
            self.note = _NOTES["grad_cam"].format(stage=stage)

            def method(variables: Any, images: jax.Array, given: Any, asked: Any) -> jax.Array:
                network = subject.network(variables, given)
                return grad_cam(network, subject.score, images, asked, stage, subject.local)

        else:
            side = min(shape[1:3])
            patch = min(options.patch or max(1, side // _PATCH), side)
            self.note = _NOTES["occlusion"].format(patch=patch)
            squares = {"patch": patch, "step": max(1, patch // _STEP)}

            def method(variables: Any, images: jax.Array, given: Any, asked: Any) -> jax.Array:
                network = subject.network(variables, given)
                return occlusion(network, subject.probability, images, asked, **squares)

        self._methods[shape] = compile_inference(method)
        return self._methods[shape]


def _scene(picture: np.ndarray, caption: str, marks: Sequence[Mark] = (), where: str = "") -> Scene:
    """A picture, enlarged where it is small, with boxes and a caption."""
    return Scene(draw_boxes(picture, marks), caption, where, right=None)


def _label(text: str | None, names: Sequence[str]) -> int | None:
    """The number of the class that `--class` names.

    Raises:
        UserError: the run has none of this name or number.
    """
    if text is None or text in names:
        return None if text is None else names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    raise UserError(
        f"--class {text}: no class of this run{nearest(text, names)}; one of "
        f"{', '.join(names[:20])}{', ...' if len(names) > 20 else ''}, or a number below "
        f"{len(names)}"
    )
