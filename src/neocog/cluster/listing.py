"""What lies in folders, stores, tar shards and Parquet files, as one scan."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from neocog.data.columns import is_picture
from neocog.data.listing import Rules, skipped, unread
from neocog.data.stores import Item, files_below, is_container, is_elsewhere, is_url
from neocog.library.scan import Found, Scan, scan

Members = tuple[list[tuple[str, Item]], list[tuple[str, str]]]


def scan_places(
    roots: Sequence[str],
    text_of: Callable[[str], str],
    skip: str,
    exclude: Sequence[str],
    look_into: Callable[[Iterable[Item]], Iterator[tuple[Item, Members]]],
) -> Scan:
    """List the pictures at `roots`; as `library.scan.scan`, and `look_into` lists the members of containers.

    Hidden and excluded names are passed over in stores as in folders.

    Raises: UsageError: nothing is there. DataError: a store cannot be listed.
    """
    folders = [root for root in roots if not is_elsewhere(root) or os.path.isdir(root)]
    made = scan(folders, text_of, skip, exclude)
    for root in roots:
        if root not in folders:
            rules = Rules(root, exclude) if exclude else None
            for place, item in files_below(root):
                _note(made, root, place, item, text_of, rules)
    for container, (found, problems) in look_into(made.containers.values()):
        for place, item in found:
            made.files[text_of(place)] = Found(item.full, item.size, item.mtime_ns, 0, 0, item.part)
        for place, reason in problems:  # of a whole container: what was known of it stays
            (made.closed if place == container.full else made.broken)[text_of(place)] = reason
    return made


def _note(made: Scan, root: str, place: str, item: Item, text_of: Callable[[str], str], rules: Rules | None) -> None:
    parts = place[len(root) :].strip("/").split("/") if place != root else []
    name = place.rpartition("/")[2]
    if any(map(skipped, parts)) or (rules and parts and rules.skip(place, name, False)):
        return
    if is_container(name):
        made.containers[text_of(place)] = item
    elif is_picture(name):
        inode = 0 if is_url(place) else os.stat(place).st_ino
        made.files[text_of(place)] = Found(place, item.size, item.mtime_ns, inode, 0)
    elif reason := unread(name):
        made.broken[text_of(place)] = reason
