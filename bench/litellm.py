"""Installs LiteLLM's proxy for the bench, in an environment of its own: `.bench/`, which git ignores."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

from bench.processes import ROOT, BenchError

VERSION = "1.106.2"
FOLDER = ROOT / ".bench" / f"litellm-{VERSION}"
DONE = "installed"
INSTALLS_WITHIN_S = 600.0

# Its documentation's advice for production (docs.litellm.ai/docs/proxy/prod), and nothing fetched from elsewhere.
ENVIRONMENT = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NO_DOCS": "True",
    "NO_REDOC": "True",
}


async def installed() -> Path:
    """Its command, installed at the first time. Raises BenchError when that fails, which it does without a network."""
    if not (FOLDER / DONE).exists():
        print(f"installing litellm[proxy]=={VERSION} into {FOLDER.relative_to(ROOT)} …", flush=True)
        shutil.rmtree(FOLDER, ignore_errors=True)
        await _run(sys.executable, "-m", "venv", str(FOLDER))
        pip = (str(FOLDER / "bin" / "python"), "-m", "pip", "install", "--quiet")
        await _run(*pip, f"litellm[proxy]=={VERSION}", "httptools")  # uvicorn is faster with it
        (FOLDER / DONE).touch()
    return FOLDER / "bin" / "litellm"


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), INSTALLS_WITHIN_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise BenchError("LiteLLM could not be installed: it took too long") from None
    if process.returncode:
        last = said.decode(errors="replace").strip().rpartition("\n")[2][:300]
        raise BenchError(f"LiteLLM could not be installed: {last}")
