"""Diff packs on the Hugging Face hub: one file and a model card a repository."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ...diffs.packs.pack import DiffPack
from ...diffs.packs.summary import summarise
from ...options.terminal import printable
from ...records.files.whole import write_text

PACK_FILE = "task.diff.safetensors"


def push_to_hub(
    pack: DiffPack,
    repo_id: str,
    base_model: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload diff pack",
) -> str:
    """Upload a pack with a model card, to a repository that is made if need be; return the commit's address.

    Args:
        pack: the pack.
        repo_id: `name` or `organisation/name`.
        base_model: the base's name on the hub, for the card, whose metadata have it only if it is given: the
            name in the pack may be that of a folder where it was trained.
        private, token, commit_message: as in huggingface_hub.

    Raises:
        huggingface_hub.errors.HfHubHTTPError, OSError: the hub refuses, or there is no network.
    """
    from huggingface_hub import HfApi  # here, so that packs can be used where it is missing

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        pack.save(Path(folder) / PACK_FILE)
        write_text(Path(folder) / "README.md", card(pack, repo_id, base_model))
        api.create_repo(repo_id, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message)
    return str(done)


def from_hub(
    repo_id: str,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> DiffPack:
    """Download a pack (or take it from the cache) and read it; a damaged download is refused.

    Raises:
        huggingface_hub.errors.HfHubHTTPError, OSError: there is no such repository, or no network.
        ValueError: see `DiffPack.load`.
    """
    from huggingface_hub import hf_hub_download

    path = hf_hub_download(repo_id, PACK_FILE, revision=revision, token=token, cache_dir=cache_dir)
    return DiffPack.load(path)


def card(pack: DiffPack, repo_id: str, base_model: str | None = None) -> str:
    """Write the model card (Markdown) of a pack."""
    figures = summarise(pack)
    lines = ["library_name: dsp_plugin", "tags:", "- diff-pruning"]
    lines += [f"base_model: {base_model}"] if base_model else []
    called = base_model or pack.config.get("base_model")
    named = f"`{printable(called, keep='').replace('`', '')}`" if called else "its base"
    return (
        "---\n" + "\n".join(lines) + "\n---\n\n"
        f"# {repo_id.split('/')[-1]}\n\n"
        f"A sparse task diff for {named}: {figures.positions:,} of {figures.weights:,} weights "
        f"({figures.density:.2%}) and the task head, {figures.file_bytes:,} bytes.\n\n"
        "```python\nfrom dsp_plugin.hf.diffs.hub import from_hub\n\n"
        f'pack = from_hub("{repo_id}")\n'
        "undo = pack.apply(model)  # refused unless the model is the very base\n"
        "undo.revert(model)  # bit for bit\n```\n\n"
        f"Base, SHA-256 of its parameters: `{figures.base_hash}`\n"
    )
