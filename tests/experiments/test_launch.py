"""The files that start a run on many machines: their syntax, and the commands within."""

import re
import shlex
import shutil
import subprocess

import pytest
import yaml

from experiments import classify, presets
from experiments import options as flags
from tests.test_house import ROOT

LAUNCH = ROOT / "experiments" / "launch"
FILES = sorted(path.name for path in LAUNCH.iterdir() if path.suffix in (".sh", ".yaml"))
SCRIPTS = [name for name in FILES if name.endswith(".sh")]


def documents():
    return list(yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text()))


def job():
    (found,) = [document for document in documents() if document["kind"] == "Job"]
    return found


def commands(text):
    """The arguments of every training in a text, as the shell would split them."""
    joined = text.replace("\\\n", " ")
    for call in re.findall(r"python3? -m experiments\.classify ([^\n;]*)", joined):
        # What the shell fills in: the folder, and --resume or nothing.
        call = re.sub(r'"?\\?\$\{?resume(\[@\]\}?)?"?', "", call.rstrip('" '))
        yield shlex.split(re.sub(r"\$\{?out\}?", "runs/x", call))


def test_all_of_them_are_tested():
    assert FILES == ["kubernetes.yaml", "slurm.sh", "tpu_pod.sh"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_legal_shell(name):
    path = LAUNCH / name
    assert path.stat().st_mode & 0o111
    checked = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--severity=warning", path], check=True)


@pytest.mark.parametrize("name", FILES)
def test_their_commands_are_this_project_s_and_can_be_resumed(name):
    text = (LAUNCH / name).read_text()
    assert text.count("<-") >= 4, "it says what to change"
    (arguments,) = commands(text)
    parsed = flags.parse(classify.Options, arguments, presets.CLASSIFICATION)
    assert parsed.run.distributed
    assert parsed.run.out is not None
    assert re.search(r"resume=\(?--resume", text)


def test_slurm_sends_its_signal_to_the_processes_and_requeues_on_their_status():
    lines = (LAUNCH / "slurm.sh").read_text().splitlines()
    settings = dict(
        re.match(r"#SBATCH --([\w-]+)=?(\S*)", line).groups()
        for line in lines
        if line.startswith("#SBATCH")
    )
    name, _, seconds = settings["signal"].partition("@")
    assert name == "USR1" and 60 < int(seconds) < 600
    assert "requeue" in settings
    assert settings["ntasks-per-node"] == "1"
    assert 'if [ "$status" -eq 75 ]; then scontrol requeue' in "\n".join(lines)


def run_slurm(tmp_path, status):
    """Run the script with a `srun` that notes its arguments and ends with this status."""
    for name, body in (
        ("srun", f'echo "srun $*" >> calls; exit {status}'),
        ("scontrol", 'echo "scontrol $*" >> calls'),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "calls").unlink(missing_ok=True)
    ended = subprocess.run(
        ["bash", LAUNCH / "slurm.sh"],
        cwd=tmp_path,
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "SLURM_JOB_ID": "7",
            "SLURM_CPUS_PER_TASK": "4",
        },
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (status, "")
    return (tmp_path / "calls").read_text().splitlines()


def test_slurm_s_script_goes_on_with_a_run_whose_time_was_over(tmp_path):
    first = run_slurm(tmp_path, 75)
    assert first[1:] == ["scontrol requeue 7"]
    assert "--resume" not in first[0].split()
    (tmp_path / "runs/imagenet").mkdir(parents=True)
    (tmp_path / "runs/imagenet/config.json").touch()
    second = run_slurm(tmp_path, 0)
    assert len(second) == 1
    assert "--resume" in second[0].split()
    assert len(run_slurm(tmp_path, 2)) == 1


def test_kubernetes_gives_what_jax_s_detection_reads():
    kinds = {document["kind"]: document for document in documents()}
    spec = job()["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"]
    pod = spec["template"]["spec"]
    service = kinds["Service"]
    assert service["spec"]["clusterIP"] == "None"  # the text, not nothing
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job()["metadata"]["name"]}
    allowed = {
        resource
        for rule in kinds["Role"]["rules"]
        for resource in rule["resources"]
        if set(rule["verbs"]) & {"get", "list"}
    }
    assert {"pods", "services", "jobs"} <= allowed
    assert pod["serviceAccountName"] == kinds["ServiceAccount"]["metadata"]["name"]
    (subject,) = kinds["RoleBinding"]["subjects"]
    assert subject["name"] == pod["serviceAccountName"]


def test_kubernetes_starts_again_what_was_stopped_and_nothing_that_is_wrong():
    rules = job()["spec"]["podFailurePolicy"]["rules"]
    actions = {
        status: rule["action"]
        for rule in rules
        for status in rule.get("onExitCodes", {}).get("values", ())
    }
    assert actions == {2: "FailJob", 3: "FailJob", 75: "Ignore"}
    pod = job()["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # what a policy for failures needs
    (container,) = pod["containers"]
    (script,) = container["args"]
    assert container["command"] == ["bash", "-c"]
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "\nexec python" in script
