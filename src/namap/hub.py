"""The Hugging Face hub: publish a fitted mapping with a model card, load one by `owner/name`.

PyTorchModelHubMixin would not serve: it makes a model of its constructor's arguments, drops those that are no plain
values (the generator), and knows no manifest, which is what a stranger's files are held against. `HfApi` does the
transport of what `save_pretrained` writes.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import checkpoint
from .card import Fitted, write_card
from .errors import NamapError, StorageError, UsageError, first_line
from .saving import MODEL_FILES, without_places

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def local_model(path: str | Path, revision: str | None = None, token: str | None = None) -> Path:
    """The directory of a model: `path` itself, or, where that is `owner/name` and not there, a copy from the hub.

    Only the files that a model consists of are fetched, into the hub's usual cache; what they hold is checked when
    they are loaded. Where there is a directory `owner`, `path` is taken for a misspelt one and nothing is asked.

    Args:
        path: a directory, or `owner/name`.
        revision: a branch, tag or commit of the hub's repository; None: `main`.
        token: for a private repository; None: the one of `hf auth login`.

    Raises:
        UsageError: the repository or the revision is not there, is not a model of namap, or may not be read.
        StorageError: the hub cannot be reached.
    """
    place = Path(path)
    if place.exists() or not REPO_ID.fullmatch(str(path)) or place.parent.is_dir():
        if revision is not None:
            raise UsageError(f"{path}: a revision is of a model on the hub, and this is no owner/name there")
        return place
    from huggingface_hub import hf_hub_download, snapshot_download

    options: dict[str, Any] = {"token": token, "library_name": "namap"}
    with hub_errors(f"{path}: no such directory, and"):
        commit = Path(hf_hub_download(str(path), checkpoint.MANIFEST, revision=revision, **options)).parent.name
        return Path(snapshot_download(str(path), revision=commit, allow_patterns=list(MODEL_FILES), **options))


def push(
    mapping: Fitted,
    repo_id: str,
    data: Any = None,
    *,
    private: bool | None = None,
    token: str | None = None,
    message: str = "Add a mapping",
    **card: Any,
) -> str:
    """Publish a mapping with a model card; return its address.

    A foreign generator is referred to by its file's name and sha256, not uploaded: it is somebody else's.

    Args:
        mapping: fitted.
        repo_id: `owner/name`; made where it is not there.
        data: queries for the card's picture, whatever `load_domain` reads; **they are published with it**. None: the
            picture shows samples of the generator.
        private: a private repository; None: as the owner's default is. Leaves an existing one as it is.
        token: None: the one of `hf auth login`.
        message: of the commit.
        **card: `license`, `x`, `y` (names of the domains), `run` (its directory, for measured numbers): see
            `namap.card.write_card`.

    Raises:
        UsageError: not a name for a repository, or it may not be written.
        StorageError: the hub cannot be reached.
    """
    if not REPO_ID.fullmatch(repo_id):
        raise UsageError(f"{repo_id}: not a repository of the hub; write owner/name")
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory(prefix="namap-") as scratch:
        folder = Path(scratch) / "model"
        write_model(mapping, folder, repo_id, data, **card)
        api = HfApi(token=token, library_name="namap")
        with hub_errors(f"{repo_id}:"):
            api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
    return f"{api.endpoint}/{repo_id}"


def write_model(mapping: Fitted, folder: Path, repo_id: str, data: Any = None, **card: Any) -> None:
    """Write what is published: the model, its card `README.md` and the card's picture.

    Raises:
        StorageError: `folder` cannot be written.
    """
    tensors, config = mapping.state()
    checkpoint.save_directory(folder, tensors, without_places(config))
    write_card(mapping, folder, repo_id, data, **card)


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Say what went wrong with the hub in one line: of the user's making, or of the network's."""
    from huggingface_hub import errors
    from huggingface_hub.utils import logging

    login = "check the name, and `hf auth login` where it is private"
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # newer versions warn at each of several tries
    try:
        yield
    except NamapError:
        raise
    except errors.GatedRepoError:
        raise UsageError(f"{what} its owner has not let you in on the hub; ask there") from None
    except errors.RepositoryNotFoundError:
        raise UsageError(f"{what} not on the hub; {login}") from None
    except errors.RevisionNotFoundError:
        raise UsageError(f"{what} no such revision on the hub; take one of its branches, tags or commits") from None
    except Exception as error:  # of requests or httpx, by the version of huggingface_hub; uploads wrap theirs
        local = isinstance(error, errors.LocalEntryNotFoundError)  # is how an unreachable hub is said
        if isinstance(error, errors.EntryNotFoundError) and not local:
            raise UsageError(f"{what} this repository of the hub holds no model of namap") from error
        status = _status(error)
        if status in (401, 403):
            raise UsageError(f"{what} the hub refuses ({status}); `hf auth login` with a token that may") from error
        if status == 404:
            raise UsageError(f"{what} not on the hub; {login}") from error
        if isinstance(error, errors.HFValidationError):
            raise UsageError(f"{what} {first_line(error)}") from error
        reason = f"answers {status}" if status else f"cannot be reached ({first_line(error).rstrip(' .')})"
        raise StorageError(f"{what} the hub {reason}; try again, or use a local directory") from error
    finally:
        logging.set_verbosity(verbosity)


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, through whatever wraps it."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return response.status_code
        error = error.__cause__
    return None
