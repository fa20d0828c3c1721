"""Signatures of a manifest, by OpenSSH: `ssh-keygen -Y sign -f KEY -n near manifest.json` makes manifest.json.sig.

A private key is read by ssh-keygen alone, when the author signs. Here only signatures are checked.
"""

import re
import subprocess
from pathlib import Path

from near.common.errors import UserError, printable
from near.selection.verifying.checks import Check, failed, impossible, passed

NAMESPACE = "near"
TIMEOUT = 30  # seconds


def sign_command(manifest: Path) -> str:
    """The command with which an author signs."""
    return f"ssh-keygen -Y sign -f ~/.ssh/id_ed25519 -n {NAMESPACE} {manifest}"


def check_signers(signers: str | None) -> None:
    """UserError if the file of signers is missing."""
    if signers is not None and not Path(signers).is_file():
        raise UserError(
            f"signers={signers}: no such file; give an allowed_signers file: a name and a public key a line"
        )


def check_signature(manifest: Path, signers: str | None) -> Check | None:
    """The check of manifest.json.sig; None where there is none and none is required.

    signers: the path of an allowed_signers file (man ssh-keygen); None: any signer.
    """
    signature, name = manifest.with_name(f"{manifest.name}.sig"), "signature"
    if not manifest.is_file() or not signature.is_file():
        missing = manifest if not manifest.is_file() else signature
        return (
            None
            if signers is None
            else failed(name, f"{missing} is missing; the author signs by: {sign_command(manifest)}")
        )
    content = manifest.read_bytes()
    try:
        if signers is None:
            done = _keygen(content, "check-novalidate", "-n", NAMESPACE, "-s", str(signature))
            if done.returncode:
                return failed(name, f"{signature.name} is not of this {manifest.name} ({_reason(done)})")
            return Check(
                name, "not checked", f"it is of this manifest, by {_key(done)}; signers=FILE says whose that is"
            )
        listed = _keygen(content, "find-principals", "-s", str(signature), "-f", signers)
        names = listed.stdout.splitlines()
        if listed.returncode or not names:
            return failed(name, f"signed by a key that {signers} does not list ({_reason(listed)})")
        words = ("verify", "-f", signers, "-I", names[0], "-n", NAMESPACE, "-s", str(signature))
        done = _keygen(content, *words)
    except (OSError, subprocess.SubprocessError) as error:
        return impossible(name, f"ssh-keygen can't be run ({printable(error, 100)}); install OpenSSH")
    if done.returncode:
        return failed(
            name, f"{signature.name} is not of this {manifest.name}, or its key was not valid ({_reason(done)})"
        )
    return passed(name, f"by {printable(names[0], 80)}, {_key(done)}")


def _keygen(content: bytes, *words: str) -> subprocess.CompletedProcess:
    done = subprocess.run(
        ["ssh-keygen", "-Y", *words], input=content, capture_output=True, timeout=TIMEOUT, check=False
    )
    texts = (done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
    return subprocess.CompletedProcess(done.args, done.returncode, *texts)


def _reason(done: subprocess.CompletedProcess) -> str:
    lines = [line for line in f"{done.stderr}\n{done.stdout}".splitlines() if line.strip()]
    return printable(lines[0] if lines else f"status {done.returncode}", 120)


def _key(done: subprocess.CompletedProcess) -> str:
    match = re.search(r"with (\S+) key (SHA256:\S+)", done.stdout + done.stderr)
    return "a key of unknown kind" if match is None else f"{match.group(1)} key {match.group(2)}"
