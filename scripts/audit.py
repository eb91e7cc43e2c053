"""Ask the public advisories about every package of this environment.

Exit code 0: nothing known; 1: something to upgrade; 3: COULD NOT AUDIT (no network, for example).
"""

import json
import subprocess
import sys
from typing import Any

TIMEOUT_S = 300
BUILT_LOCALLY = {"torch"}  # a CPU build carries a version that the advisory service does not list


def main() -> int:
    """Print the findings, one line each, and return the exit code."""
    command = [sys.executable, "-m", "pip_audit", "--local", "--format", "json"]
    command += ["--progress-spinner", "off", "--timeout", "20"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        packages = json.loads(result.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return could_not(f"no answer within {TIMEOUT_S} seconds")
    except (ValueError, KeyError, TypeError):
        return could_not((result.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1])
    return report(packages)


def could_not(reason: str) -> int:
    """Say aloud that nothing was checked."""
    print(f"COULD NOT AUDIT the installed packages: {reason}", file=sys.stderr)
    return 3


def report(packages: list[dict[str, Any]]) -> int:
    """Print a line for each advisory; a package that was not looked up counts as not audited."""
    findings = 0
    for package in packages:
        for advisory in package.get("vulns", []):
            findings += 1
            fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {advisory['id']}, fixed in {fixed}")
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    print(f"{len(packages) - len(skipped)} packages checked, {findings} known vulnerabilities.")
    if findings:
        return 1
    if set(skipped) - BUILT_LOCALLY:
        return could_not(f"{len(skipped)} of {len(packages)} are not known to the advisory service")
    return 0


if __name__ == "__main__":
    sys.exit(main())
