"""The README tells the truth: its settings are the service's, and its commands are those that exist."""

import re
import subprocess
import sys
from pathlib import Path

from pydantic_core import PydanticUndefined

from service import cli
from service.settings import Settings

README = (Path(__file__).parent.parent / "README.md").read_text()


def settings_table() -> str:
    """One row a setting, in the order of the class."""
    rows = ["| `COORDSERVE_…` | default | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (PydanticUndefined, None, "") else f"`{field.default}`"
        if name == "model":
            default = "the digits"
        rows.append(f"| `{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


def test_the_settings_table_is_that_of_the_settings():
    assert settings_table() in README, f"paste this into README.md:\n{settings_table()}"


def test_the_python_shown_runs():
    (code,) = re.findall(r"^```python\n(.+?)^```", README, re.MULTILINE | re.DOTALL)

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "[(32, 2), (144, 4), (192, 8), (384, 16), (1280, 32)]",
        "torch.Size([1, 48, 8])",
        "torch.Size([1, 32, 32])",
        "torch.Size([1, 32, 32])",
    ]


def test_every_command_shown_is_understood():
    commands = re.findall(r"^ {4}coordserve ([^#\n]+)", README, re.MULTILINE)

    assert len(commands) >= 5
    for command in commands:
        assert cli.parser().parse_args(command.split()).run
