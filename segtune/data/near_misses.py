"""Hints for an absent file: files that nearly have its name, and the setting that pairs them."""

from __future__ import annotations

import itertools
import os
import posixpath
import re
from collections.abc import Iterable, Sequence

from segtune.data.file_names import LOSSY_MASK_SUFFIXES, MASK_SUFFIXES, normal
from segtune.data.layout_hints import MASK_FOLDERS
from segtune.data.listing import EMPTY, KNOWN_SUFFIXES, FileTree, Listing
from segtune.errors import DataError, nearest, setting

LABEL_STUDIO = re.compile(r"task-\d+-annotation-\d+-")
# At most this many names are searched for one that is similar to an absent name.
MAX_COMPARED_NAMES = 5000
# An image has few kinds of masks. More names that begin alike are masks of other images.
MAX_ENDS = 20
# Of several kinds of masks per image, these are offered first, in this order.
LIKELY_MASKS = ("labeltrainids", "trainids", "labelids", "mask", "label", "seg", "gt")


def no_image(name: str, others: int, place: str, images: FileTree) -> DataError:
    """Return the error for an image name of a list, at `place`, and so many `others`."""
    listing = _listing_of(name, images)
    hint = (
        _other_format(name, images, listing)
        or _only_with_suffix(name, listing)
        or _similar(name, images, listing)
    )
    return DataError(f"{images.folder}: no image for {name!r}{_more(others)} ({place}){hint}")


def no_mask(
    names: Sequence[str], missing: Sequence[str], images: FileTree, masks: FileTree
) -> DataError:
    """Return the error for the images `missing` among all images `names` of a split."""
    listing = _listing_of(missing[0], masks)
    hint = (
        _of_label_studio(listing)
        or _lossy(missing[0], masks, listing)
        or _other_mask_folder(missing[0], images, masks)
        or _suffixes(names, images, masks)
        or _other_format(missing[0], masks, listing)
        or _similar(missing[0], masks, listing)
    )
    more = _more(len(missing) - 1)
    if len(missing) * 2 < len(names):  # nothing is wrong with the names
        hint += f"; all other {len(names) - len(missing)} images have one: list only these"
    return DataError(f"{masks.folder}: no mask for {missing[0]!r}{more}{hint}")


def _of_label_studio(listing: Listing) -> str:
    """Return a hint if the masks are Label Studio's: one file for each task and class."""
    file = next((name for name in listing.files if LABEL_STUDIO.match(name)), None)
    if file is None:
        return ""
    return (
        f"; {file!r} is one class of one task of Label Studio: draw the masks of a task into one "
        "file with the label of each pixel, under the name of the task's image"
    )


def _more(count: int) -> str:
    return f" (and {count} more)" if count else ""


def _a(kind: str) -> str:
    return f"an {kind}" if kind == "image" else f"a {kind}"


def _listing_of(name: str, tree: FileTree) -> Listing:
    """Return the listing of the folder that the file should be in; an empty one without it."""
    folder = os.path.join(tree.folder, posixpath.dirname(name)).rstrip("/")
    return tree.listing_if_there(folder) or EMPTY


def _all_files(listing: Listing) -> list[str]:
    return [*map(os.path.basename, listing.files.values()), *listing.others]


def _stems(files: Iterable[str]) -> list[str]:
    """Return the names without extension of the files that may be images or masks."""
    parts = (os.path.splitext(normal(file)) for file in files)
    return [stem for stem, extension in parts if extension.lower() in KNOWN_SUFFIXES]


def _lossy(name: str, masks: FileTree, listing: Listing) -> str:
    wanted = posixpath.basename(name) + masks.suffix.text
    for file in listing.others:
        stem, extension = os.path.splitext(file)
        if normal(stem) == wanted and extension.lower() in LOSSY_MASK_SUFFIXES:
            return (
                f"; {file} is there, but JPEG changes the labels along every edge: save the masks "
                "as PNG. To read them nevertheless, each value as the nearest label: "
                "--set data.allow_lossy_masks=true"
            )
    return ""


def _other_mask_folder(name: str, images: FileTree, masks: FileTree) -> str:
    """Return a hint if another usual folder of masks has a mask of this name."""
    first, *rest = os.path.relpath(masks.folder, masks.root).split("/")
    below = masks.listing_if_there(masks.folder) or EMPTY
    inner = [f"{first}/{name}" for name in below.folders] if not rest else []
    for other in (*MASK_FOLDERS, *inner):
        folder = os.path.join(masks.root, other, *rest)
        if other == first or folder == images.folder:
            continue
        if FileTree("mask", folder, masks.root, masks.suffix).named(name):
            return f"; {folder} has it: {setting('data.masks', other)}"
    return ""


def _other_format(name: str, tree: FileTree, listing: Listing) -> str:
    wanted = posixpath.basename(name)
    for file in listing.others:
        stem, extension = os.path.splitext(file)
        if normal(stem) == wanted + tree.suffix.text and extension:
            allowed = ", ".join(sorted(tree.suffix.extensions))
            return f"; {file} is there, but {_a(tree.kind)} file must be one of {allowed}"
    return ""


def _only_with_suffix(name: str, listing: Listing) -> str:
    """Propose data.image_suffix if the image is there with a text behind its name."""
    last = posixpath.basename(name)
    ends = sorted(
        {stem[len(last) :] for stem in _stems(_all_files(listing)) if stem.startswith(last)}
    )
    ends = [end for end in ends if end and not end[0].isalnum()]
    if not ends:
        return ""
    return f"; {last + ends[0]!r} is there: {setting('data.image_suffix', ends[0])}"


def _suffixes(names: Sequence[str], images: FileTree, masks: FileTree) -> str:
    """Propose data.mask_suffix and data.image_suffix if they pair most of the images."""
    by_folder: dict[str, set[str]] = {}
    for name in names:
        folder = posixpath.dirname(name)
        if folder not in by_folder:
            by_folder[folder] = set(_stems(_all_files(_listing_of(name, masks))))
    stems = {posixpath.join(folder, stem) for folder in by_folder for stem in by_folder[folder]}
    possible = _possible_ends(names[len(names) // 2], stems)
    proposals = [
        ends
        for ends in (possible if len(possible) <= MAX_ENDS else ())
        # One image of two is no proof that the end of its name is no part of the name.
        if _num_paired(names, stems, *ends) * 2 >= len(names) + bool(ends[0])
    ]
    if not proposals:
        return ""
    end_of_image, end_of_mask = min(proposals, key=_unlikeliness)
    settings = " ".join(
        setting(f"data.{kind}_suffix", end)
        for kind, end, now in (
            ("mask", _with_extension(end_of_mask, masks, names), masks.suffix.text),
            ("image", end_of_image + images.suffix.text, images.suffix.text),
        )
        if end != now
    )
    mask_ends = sorted({end for _, end in proposals})
    if len(mask_ends) > 1:
        return f"; the masks end in {', '.join(mask_ends)}; choose one, for example {settings}"
    return f"; most images have a mask with another end of the name: {settings}"


def _with_extension(end: str, masks: FileTree, names: Sequence[str]) -> str:
    """Return the end of the masks' names, with the files' extension if it looks like one itself."""
    if os.path.splitext(f"x{end}")[1].lower() not in KNOWN_SUFFIXES:
        return end
    files = _all_files(_listing_of(names[0], masks))
    extensions = [ext for stem, ext in map(os.path.splitext, files) if stem.endswith(end)]
    return end + extensions[0] if extensions else end


def _possible_ends(name: str, stems: Iterable[str]) -> set[tuple[str, str]]:
    """Return the ends of `name` and of each stem, behind the longest beginning that they share."""
    longest, ends = 0, set()
    for stem in stems:
        shared = _num_shared(name, stem)
        if 0 < shared < len(name):
            # Cut before a word, never inside it.
            words = list(re.finditer(r"[^A-Za-z0-9]+", name[: shared + 1]))
            shared = words[-1].start() if words else 0
        if shared and shared >= longest:
            ends = ends if shared == longest else set()
            longest = shared
            ends.add((name[shared:], stem[shared:]))
    return ends - {("", "")}


def _num_shared(first: str, second: str) -> int:
    """Return how many characters two texts share at their beginnings."""
    equal = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return sum(1 for _ in equal)


def _num_paired(names: Sequence[str], stems: set[str], image_end: str, mask_end: str) -> int:
    return sum(
        name.endswith(image_end) and name[: len(name) - len(image_end)] + mask_end in stems
        for name in names
    )


def _unlikeliness(ends: tuple[str, str]) -> tuple[int, str]:
    text = ends[1].lower()
    ranks = [rank for rank, word in enumerate(LIKELY_MASKS) if word in text]
    return (min(ranks, default=len(LIKELY_MASKS)), text)


def _similar(name: str, tree: FileTree, listing: Listing) -> str:
    last = posixpath.basename(name)
    top = tree.listing_if_there(tree.folder) or EMPTY
    for other in listing.files:
        if other.casefold() == last.casefold():
            return f"; did you mean '{other}'? (upper and lower case differ)"
    if "/" in name and last in top.files:
        return f"; {os.path.basename(top.files[last])} is in {tree.folder} itself"
    if "/" not in name:
        for folder in top.folders:
            below = _listing_of(f"{folder}/{name}", tree)
            if last in below.files:
                return f"; did you mean '{folder}/{last}'?"
    if not listing.files:
        return content_without_files(tree, posixpath.dirname(name))
    near = nearest(last, list(listing.files)[:MAX_COMPARED_NAMES])
    return near or f"; the {tree.kind}s have names such as '{min(listing.files)}'"


def content_without_files(tree: FileTree, subfolder: str = "") -> str:
    """Return a hint with the content of a folder that has no file of the kind."""
    if tree.listing_if_there(os.path.join(tree.folder, subfolder).rstrip("/")) is None:
        return f"; {tree.folder} has no folder {subfolder!r}"
    listing = _listing_of(posixpath.join(subfolder, "x"), tree)
    counts: dict[str, int] = {}
    for file in listing.others:
        extension = os.path.splitext(file)[1] or "no extension"
        counts[extension] = counts.get(extension, 0) + 1
    content = ", ".join(f"{count} x {extension}" for extension, count in sorted(counts.items())[:5])
    if tree.kind == "mask" and any(end in counts for end in LOSSY_MASK_SUFFIXES):
        return (
            f"; the folder has {content}. JPEG changes the labels along every edge: save the masks "
            "as PNG, or --set data.allow_lossy_masks=true"
        )
    if tree.suffix.text and _stems(listing.others):
        return (
            f"; the folder has {content}, and no name ends in {tree.suffix.text!r}. If the splits "
            "have other ends, write lists train.txt and val.txt with a line for each image: its "
            "path under data.root, a tab, the path of its mask"
        )
    if any(end.lower() in (".heic", ".heif") for end in counts):
        convert = "mogrify -format jpg *.HEIC"
        return f"; the folder has {content}. Convert HEIC to JPEG, for example with: {convert}"
    allowed = ", ".join(MASK_SUFFIXES if tree.kind == "mask" else sorted(tree.suffix.extensions))
    return (
        f"; the folder has {content or 'no files'}; {_a(tree.kind)} file must be one of {allowed}"
    )
