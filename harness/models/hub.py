"""Pipelines by hub id: the local snapshot of one, fetched first where the user lets the hub be asked.

The hub is off unless HF_HUB_OFFLINE=0 is set: then what is cached counts, and nothing waits for a network.
"""

from __future__ import annotations

import re
from pathlib import Path

from harness.errors import UserError

_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def is_id(name: str) -> bool:
    """Whether a name looks like owner/name."""
    return bool(_ID.fullmatch(name))


def snapshot(name: str, revision: str | None = None, variant: str | None = None) -> Path:
    """The folder of a hub model, safetensors only. Raises UserError with one sentence on what is missing."""
    from huggingface_hub import constants, errors, snapshot_download

    what = f"model {name!r}" + (f" at revision {revision!r}" if revision else "")
    try:
        if constants.HF_HUB_OFFLINE:
            return Path(snapshot_download(name, revision=revision, local_files_only=True))
        from diffusers import DiffusionPipeline

        found = DiffusionPipeline.download(name, revision=revision, variant=variant, use_safetensors=True)
        return Path(str(found))
    except errors.GatedRepoError as error:
        raise UserError(
            f"{what} is gated: accept its terms on its hub page and log in with `hf auth login`, then run again"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"model {name!r} has no revision {revision!r} on the hub") from error
    except errors.LocalEntryNotFoundError as error:
        where = f"not in the local cache ({constants.HF_HUB_CACHE}) and no folder here"
        if constants.HF_HUB_OFFLINE:
            raise UserError(f"{what} is {where}, and the hub is off: set HF_HUB_OFFLINE=0 to download it") from error
        raise UserError(f"{what} is {where}, and the hub cannot be reached: check the network") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{what} does not exist on the hub, or is private and needs `hf auth login`; it is no folder here, either"
        ) from error
    except errors.EntryNotFoundError as error:
        raise UserError(f"{what} is no diffusers pipeline: it holds no model_index.json") from error
    except (OSError, ValueError, getattr(errors, "HTTPError", OSError)) as error:  # the network's own, of any kind
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{what} cannot be fetched from the hub: {text}") from error
