"""Downloads a category of Amazon Reviews 2023: ratings and catalogue.

An interrupted download is resumed. The server publishes no checksums, so the size and SHA-256 of
the first download are recorded and verified later (https://amazon-reviews-2023.github.io).
"""

from __future__ import annotations

import difflib
import json
import os
import re
import ssl
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError

from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from minirec.errors import CorpusError
from minirec.store.files import file_entry, write_json

BASE_URL = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023"
CHUNK = 1 << 20
TIMEOUT_S = 60

CATEGORIES = (
    "All_Beauty", "Amazon_Fashion", "Appliances", "Arts_Crafts_and_Sewing", "Automotive",
    "Baby_Products", "Beauty_and_Personal_Care", "Books", "CDs_and_Vinyl",
    "Cell_Phones_and_Accessories", "Clothing_Shoes_and_Jewelry", "Digital_Music", "Electronics",
    "Gift_Cards", "Grocery_and_Gourmet_Food", "Handmade_Products", "Health_and_Household",
    "Health_and_Personal_Care", "Home_and_Kitchen", "Industrial_and_Scientific", "Kindle_Store",
    "Magazine_Subscriptions", "Movies_and_TV", "Musical_Instruments", "Office_Products",
    "Patio_Lawn_and_Garden", "Pet_Supplies", "Software", "Sports_and_Outdoors",
    "Subscription_Boxes", "Tools_and_Home_Improvement", "Toys_and_Games", "Video_Games",
    "Unknown",
)  # fmt: skip
"""Suggestions for a misspelled name; other names are tried too."""


def download_category(
    category: str, folder: str | Path, *, core: str = "0core", base_url: str = BASE_URL
) -> tuple[Path, Path]:
    """Download ratings and catalogue of a category into `folder`, unless they exist there.

    Args:
        category: name as on the dataset's page, with spaces or underscores.
        core: ``0core`` for all ratings; ``5core`` for those of users and items with five.

    Returns:
        Paths of the ratings (.csv.gz) and of the catalogue (.jsonl.gz).

    Raises:
        CorpusError: unknown category, failed download (the next call resumes it), or a file that
            differs from its recorded checksum.
    """
    name = category.strip().replace(" ", "_")
    if not re.fullmatch(r"\w+", name, flags=re.ASCII):
        raise CorpusError(f"corpus.category={category!r} is not a category; use e.g. All_Beauty")
    file = f"{name}.csv.gz" if core == "0core" else f"{name}.{core}.csv.gz"
    ratings = fetch(f"{base_url}/benchmark/{core}/rating_only/{name}.csv.gz", Path(folder) / file)
    metadata = fetch(
        f"{base_url}/raw/meta_categories/meta_{name}.jsonl.gz",
        Path(folder) / f"meta_{name}.jsonl.gz",
    )
    return ratings, metadata


def fetch(url: str, path: Path) -> Path:
    """Download `url` to `path` with a progress bar, resuming ``<path>.part``.

    An existing file is kept; it is verified if it has a record ``<path>.json``.
    """
    record = path.with_name(f"{path.name}.json")
    if path.exists():
        if record.exists():
            _verify(path, json.loads(record.read_text(encoding="utf-8")))
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        _receive(url, part)
    except HTTPError as error:
        raise CorpusError(_refused(url, error)) from None
    except (URLError, HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or error
        raise CorpusError(
            f"download of {url} broke off ({reason}); run the same command again to resume it"
        ) from None
    except OSError as error:
        raise CorpusError(f"{part} cannot be written: {error.strerror}; free some space") from None
    write_json(record, {"url": url, **file_entry(part)})
    os.replace(part, path)
    part.with_name(f"{part.name}.json").unlink(missing_ok=True)
    return path


def _receive(url: str, part: Path) -> None:
    state = part.with_name(f"{part.name}.json")
    have = part.stat().st_size if part.exists() and state.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "minirec"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        # If the file changed on the server, it sends the whole new file.
        request.add_header("If-Range", json.loads(state.read_text(encoding="utf-8"))["version"])
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except HTTPError as error:
        whole = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        if error.code == 416 and whole == str(have):
            return  # the last attempt received all bytes but did not rename the file
        if error.code == 416:
            part.unlink(missing_ok=True)
        raise
    with response:
        resumed = response.status == 206
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if version and not version.startswith("W/"):
            write_json(state, {"version": version})
        else:
            state.unlink(missing_ok=True)  # without a version the download cannot be resumed
        with part.open("ab" if resumed else "wb") as file, _progress() as progress:
            task = progress.add_task(url.rpartition("/")[2], total=total, completed=have)
            while chunk := response.read(CHUNK):
                file.write(chunk)
                progress.advance(task, len(chunk))
            file.flush()
            os.fsync(file.fileno())
    size = part.stat().st_size
    if total is not None and size != total:
        raise ConnectionError(f"{size:,} of {total:,} bytes")


def _progress() -> Progress:
    return Progress(
        "{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn(), transient=True
    )


def _refused(url: str, error: HTTPError) -> str:
    name = url.rpartition("/")[2].removeprefix("meta_").partition(".")[0]
    if error.code != 404:
        return f"{url} answered {error.code} {error.reason}; try again later"
    near = difflib.get_close_matches(name, CATEGORIES, n=1)
    hint = f"did you mean {near[0]}" if near and near[0] != name else "see the dataset's page"
    return f"there is no category {name} at {url}; {hint}"


def _verify(path: Path, record: dict) -> None:
    found = file_entry(path)
    if any(found[key] != record[key] for key in found):
        raise CorpusError(
            f"{path} differs from its recorded checksum ({found['bytes']:,} bytes, "
            f"{record['bytes']:,} when it was downloaded); delete it and run the same command again"
        )
