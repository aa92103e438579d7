"""Asks pip-audit whether a pinned distribution has a known vulnerability, and says plainly where it could not ask.

pip-audit ends well where its database does not answer, or knows none of the distributions: that is no clean result.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def verdict(code: int, output: str, errors: str) -> tuple[int, str]:
    """What `make audit` ends with and says, of how pip-audit ended and its JSON."""
    try:
        dependencies: list[dict[str, Any]] = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        reason = (errors.strip().splitlines() or [f"it ended with {code}"])[-1]
        return 0, f"NOT AUDITED for known vulnerabilities: pip-audit needs its database from the network ({reason})"
    known = [one for one in dependencies if "skip_reason" not in one]
    lines = [
        f"{one['name']} {one['version']}: {bug['id']}, mended in {', '.join(bug['fix_versions']) or 'no version yet'}"
        for one in known
        for bug in one["vulns"]
    ]
    if lines:
        return 1, "\n".join(lines)
    if not known:
        return 0, (
            f"NOT AUDITED for known vulnerabilities: the index answered for none of {len(dependencies)} distributions; "
            "pip-audit needs its database from the network"
        )
    left = [one["name"] for one in dependencies if "skip_reason" in one]
    return 0, f"no known vulnerability in {len(known)} distributions" + (
        f"; NOT AUDITED: {', '.join(left)}" if left else ""
    )


def main() -> int:
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS), "--no-deps", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True)
    code, said = verdict(done.returncode, done.stdout, done.stderr)
    print(said, file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main())
