"""Damaged copies of a tiled TIFF: what disks, transfers and careless converters do to tables of tiles."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

WIDTH, HEIGHT, TILE_WIDTH, TILE_HEIGHT, OFFSETS, SIZES = 256, 257, 322, 323, 324, 325
RESOLUTION_UNIT = 296
_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}


@dataclass(frozen=True)
class Tag:
    """Where the values of a tag lie."""

    entry: int
    kind: int
    count: int
    at: int


class Tiff:
    """Bytes of a classic little-endian TIFF file, with its levels' tags."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        assert self.data[:4] == b"II*\0"
        self.levels: list[dict[int, Tag]] = []
        at = struct.unpack_from("<I", self.data, 4)[0]
        while at:
            count = struct.unpack_from("<H", self.data, at)[0]
            self.levels.append(dict(self._tag(at + 2 + 12 * index) for index in range(count)))
            at = struct.unpack_from("<I", self.data, at + 2 + 12 * count)[0]

    def _tag(self, entry: int) -> tuple[int, Tag]:
        number, kind, count = struct.unpack_from("<HHI", self.data, entry)
        size = count * {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 16: 8}.get(kind, 1)
        at = entry + 8 if size <= 4 else struct.unpack_from("<I", self.data, entry + 8)[0]
        return number, Tag(entry, kind, count, at)

    def get(self, level: int, number: int) -> list[int]:
        tag = self.levels[level][number]
        return list(struct.unpack_from(f"<{tag.count}{_TYPES[tag.kind]}", self.data, tag.at))

    def put(self, level: int, number: int, values: list[int]) -> None:
        tag = self.levels[level][number]
        struct.pack_into(f"<{tag.count}{_TYPES[tag.kind]}", self.data, tag.at, *values)

    def put_long(self, level: int, number: int, value: int) -> None:
        """Store one value whatever type the tag had."""
        tag = self.levels[level][number]
        struct.pack_into("<HII", self.data, tag.entry + 2, 4, 1, value)


def without_tiles(file: Tiff, level: int, random: Random) -> None:
    offsets, sizes = file.get(level, OFFSETS), file.get(level, SIZES)
    for tile in random.sample(range(len(offsets)), max(1, len(offsets) // random.choice((2, 5, 20)))):
        offsets[tile] = sizes[tile] = 0
    file.put(level, OFFSETS, offsets)
    file.put(level, SIZES, sizes)


def without_sizes(file: Tiff, level: int, random: Random) -> None:
    sizes = file.get(level, SIZES)
    for tile in random.sample(range(len(sizes)), max(1, len(sizes) // 5)):
        sizes[tile] = 0
    file.put(level, SIZES, sizes)


def swapped(file: Tiff, level: int, random: Random) -> None:
    offsets, sizes = file.get(level, OFFSETS), file.get(level, SIZES)
    if len(offsets) > 1:
        one, other = random.sample(range(len(offsets)), 2)
        for values in (offsets, sizes):
            values[one], values[other] = values[other], values[one]
    file.put(level, OFFSETS, offsets)
    file.put(level, SIZES, sizes)


def rotated(file: Tiff, level: int, random: Random) -> None:
    by = random.randrange(1, 4)
    for number in (OFFSETS, SIZES):
        values = file.get(level, number)
        file.put(level, number, values[by % len(values) :] + values[: by % len(values)])


def repeated(file: Tiff, level: int, random: Random) -> None:
    offsets, sizes = file.get(level, OFFSETS), file.get(level, SIZES)
    one, other = random.choices(range(len(offsets)), k=2)
    offsets[one], sizes[one] = offsets[other], sizes[other]
    file.put(level, OFFSETS, offsets)
    file.put(level, SIZES, sizes)


def with_a_bit_in_an_offset(file: Tiff, level: int, random: Random) -> None:
    offsets = file.get(level, OFFSETS)
    offsets[random.randrange(len(offsets))] ^= 1 << random.randrange(31)
    file.put(level, OFFSETS, offsets)


def with_another_tile_size(file: Tiff, level: int, random: Random) -> None:
    sides = random.choice(((TILE_WIDTH,), (TILE_HEIGHT,), (TILE_WIDTH, TILE_HEIGHT)))
    value = random.choice((16, 64, 128, 240, 272, 512, 1 << 20, 256 ^ (1 << random.randrange(4, 31))))
    for number in sides:
        file.put_long(level, number, value)


def with_another_size(file: Tiff, level: int, random: Random) -> None:
    for number in random.choice(((WIDTH,), (HEIGHT,), (WIDTH, HEIGHT))):
        file.put_long(level, number, file.get(level, number)[0] ^ (1 << random.randrange(6, 20)))


MUTATIONS: tuple[Callable[[Tiff, int, Random], None], ...] = (
    without_tiles,
    without_sizes,
    swapped,
    rotated,
    repeated,
    with_a_bit_in_an_offset,
    with_another_tile_size,
    with_another_size,
)
