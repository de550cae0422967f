"""The pictures from the packages that publish them, which are read from unpacked npm packages or fetched by npm.

Noto Emoji and Twemoji are 64-pixel PNG files there; Fluent Emoji flat is SVG, drawn by resvg; names are those of
OpenMoji's table (Unicode's). Left out: keycaps, and Fluent icons that are named otherwise than Unicode's name.
"""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
import json
import re
import shutil
import subprocess
import tarfile
import unicodedata
import zlib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from PIL import Image

from harness.errors import UserError, first_line
from harness.zoo.emoji import held_out
from harness.zoo.emoji.pictures import SIZE, Pictures, packed

VERSIONS = {
    "emoji-datasource-google": "16.0.0", "emoji-datasource-twitter": "16.0.0",
    "@iconify-json/fluent-emoji-flat": "1.2.6", "openmoji": "17.0.0",
}  # fmt: skip
FILES = {
    "emoji-datasource-google": ("emoji.json", "img/google/64/*.png"),
    "emoji-datasource-twitter": ("img/twitter/64/*.png",),
    "@iconify-json/fluent-emoji-flat": ("icons.json",),
    "openmoji": ("data/openmoji.csv",),
}
"""What is read of each."""
DIGESTS = {
    "emoji-datasource-google": "f24a2a7d590d5032f6590c301485408465343b70ebb6646d22d802abb2bb51ef",
    "emoji-datasource-twitter": "0768749eedb2ae75e025d7e66334702f7200cc7c110901e741a1a6167f65f184",
    "@iconify-json/fluent-emoji-flat": "782733f84bd6ff634e02cc4e72f60d656de538251659b7084d39302020acf96a",
    "openmoji": "4ec5095d5cafe1107f0771955a1ca43ae137f50971b79bcfa3ead6eec6af8ccd",
}
"""sha256 over the names and contents of these files."""
_PNG = {"noto": "emoji-datasource-google/img/google/64", "twemoji": "emoji-datasource-twitter/img/twitter/64"}


def fetch(folder: Path) -> None:
    """Get what is missing of the packages (about 140 MB) and unpack what is read of them: what is there is whole, after
    a kill, too. Raises UserError."""
    for name, version in VERSIONS.items():
        part = folder / f".{name.replace('/', '-')}"
        if not (folder / name / "package.json").is_file():
            archive = _packed_by_npm(name, version, part)
            try:
                with tarfile.open(archive) as archived:
                    archived.extractall(part, [one for one in archived if _is_read(one.name, name)], filter="data")
            except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
                raise UserError(f"{archive} cannot be unpacked: {first_line(error)}; run this again") from error
            shutil.rmtree(folder / name, ignore_errors=True)  # the rest of a package that somebody took apart
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (part / "package").rename(folder / name)  # the last step
        shutil.rmtree(part, ignore_errors=True)


def _packed_by_npm(name: str, version: str, folder: Path) -> Path:
    """The package's archive, fetched into an empty folder. Raises UserError."""
    if shutil.which("npm") is None:
        raise UserError(
            f"npm is not on this machine; unpack {', '.join(map(' '.join, VERSIONS.items()))} into one folder"
            " and give it as --packages, or a folder of packed pictures as --packed"
        )
    shutil.rmtree(folder, ignore_errors=True)  # what a kill has left; npm keeps what it has fetched
    folder.mkdir(parents=True)
    command = ["npm", "pack", "--loglevel=error", f"{name}@{version}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.tgz"))
    if done.returncode or not archives:
        raise UserError(
            f"npm could not fetch {name} {version}: {_npm_said(done.stderr)}; check the network and npm's registry and "
            "run this again (what is fetched is kept), or give --packages or --packed"
        )
    return archives[0]


def _npm_said(text: str) -> str:
    """npm's errors in one line, without its prefix and without where its log lies."""
    lines = [line.removeprefix("npm").strip().removeprefix("error").strip() for line in text.splitlines()]
    kept = [line for line in lines if line and "complete log" not in line and not line.endswith("-debug-0.log")]
    return "; ".join(kept)[:300] or "it gave no reason"


def _is_read(path: str, package: str) -> bool:
    """Whether a file of an archive is one of those that are read; most of the archives is larger pictures."""
    inside = path.removeprefix("package/")
    return any(fnmatch(inside, pattern) for pattern in ("package.json", *FILES[package]))


def read(folder: Path) -> Pictures:
    """The pictures of unpacked packages, `folder`/<package name>/..., in the order of Noto's table. Raises UserError
    for packages that are missing, changed or of another version, and where resvg is not installed."""
    check(folder)
    draw = _drawer(folder)
    names = _names(folder)
    table = json.loads((folder / "emoji-datasource-google/emoji.json").read_text(encoding="utf-8"))
    held = {(item.style, item.code) for item in held_out.pictures().items}
    files: list[tuple[dict[str, str], bytes]] = []
    for code, image, category in _rows(table):
        name = names[code]
        pictures = [(style, _webp(Image.open(folder / place / image))) for style, place in _PNG.items()]
        if (drawn := draw(name)) is not None:
            pictures.append(("fluent", _webp(drawn)))
        for style, file in pictures:
            split = "test" if (style, code) in held else "train"
            fields = {"style": style, "name": name, "category": category, "code": code, "split": split}
            files.append((fields, file))
    return packed(files)


def check(folder: Path) -> None:
    """Raises UserError unless the packages are there, in the versions that are named here."""
    for name, version in VERSIONS.items():
        where = folder / name
        if not where.is_dir():
            raise UserError(f"{folder} holds no {name}; unpack the npm package {name} {version} there")
        if (found := digest(where, FILES[name])) != DIGESTS[name]:
            raise UserError(
                f"{where} is not {name} {version} as published (sha256 of {', '.join(FILES[name])}: {found[:12]}, "
                f"expected {DIGESTS[name][:12]}); delete that folder and unpack that version anew, or let `data emoji` "
                "fetch it"
            )


def digest(folder: Path, patterns: tuple[str, ...]) -> str:
    """sha256 over names and contents of the files that these patterns name."""
    total = hashlib.sha256()
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        total.update(path.relative_to(folder).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def words(name: str) -> str:
    """A Unicode name in plain words: lower case, without accents, possessives and "skin tone"."""
    plain = "".join(one for one in unicodedata.normalize("NFKD", name.lower()) if not unicodedata.combining(one))
    plain = plain.replace("\u2019s ", " ").replace("skin tone", "")
    return " ".join(re.findall(r"[a-z0-9]+", plain))


def bare(code: str) -> str:
    """Code points without variation selectors."""
    return "-".join(point for point in code.upper().split("-") if point != "FE0F")


def _rows(table: list[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Code, file name and category of every emoji and its variations, keycaps left out."""
    for emoji in table:
        for one in (emoji, *emoji.get("skin_variations", {}).values()):
            if emoji["subcategory"] != "keycap":
                yield bare(one["unified"]), one["image"], emoji["category"]


def _names(folder: Path) -> dict[str, str]:
    with open(folder / "openmoji/data/openmoji.csv", encoding="utf-8", newline="") as handle:
        return {bare(row["hexcode"]): words(row["annotation"]) for row in csv.DictReader(handle)}


def drawing() -> Any:
    """resvg's module, which draws the Fluent icons. Raises UserError where it is not installed."""
    try:
        return importlib.import_module("resvg_py")
    except ImportError as error:
        raise UserError(
            "resvg-py is not installed, which draws the Fluent pictures: pip install 'dit-efficiency-harness[emoji]'"
        ) from error


def _drawer(folder: Path) -> Any:
    """A function that draws the Fluent icon of a name, None where there is none."""
    resvg = drawing()
    icons = json.loads((folder / "@iconify-json/fluent-emoji-flat/icons.json").read_text(encoding="utf-8"))

    def draw(name: str) -> Image.Image | None:
        icon = icons["icons"].get(name.replace(" ", "-"))
        if icon is None:
            return None
        box = f"0 0 {icon.get('width', icons['width'])} {icon.get('height', icons['height'])}"
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{box}" width="{SIZE}" height="{SIZE}">{icon["body"]}</svg>'
        )
        return Image.open(io.BytesIO(bytes(resvg.svg_to_bytes(svg_string=svg))))

    return draw


def _webp(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.convert("RGBA").save(out, "WEBP", lossless=True)
    return out.getvalue()
