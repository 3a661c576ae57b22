"""The part of HDF5 that Keras' files are made of, read without its library, which loops for ever on a damaged file.

That is version 0 of the format, which h5py writes unless told otherwise: groups as B-trees of names, arrays in one
piece, attributes beside them. Section numbers are those of the HDF5 File Format Specification, version 3.0. All that
is read is within the file; nothing is met twice; and the work is bounded by the file's size.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_DEPTH = 64  # of groups within groups
_NAME = 512  # bytes that a name may have
# Size, and what follows it in a description: offset and precision in bits, places and sizes of exponent and mantissa,
# bias of the exponent.
_FLOATS = {
    (2, 0, 16, 10, 5, 0, 10, 15): "f2",
    (4, 0, 32, 23, 8, 0, 23, 127): "f4",
    (8, 0, 64, 52, 11, 0, 52, 1023): "f8",
    (2, 0, 16, 7, 8, 0, 7, 127): "bfloat16",
}


class Array(NamedTuple):
    """An array that is there and not yet read."""

    where: str
    file: File
    shape: tuple[int, ...]
    dtype: str  # with its byte order; or "bfloat16"; or why it is none, after a "!"
    place: int
    size: int

    def read(self) -> np.ndarray:
        """Its numbers; of bfloat16 as float32."""
        if self.dtype.startswith("!"):
            raise ValueError(f"{self.where}: {self.dtype[1:]}")
        brain = self.dtype.endswith("bfloat16")
        dtype = np.dtype(self.dtype[0] + "u2" if brain else self.dtype)
        claimed = dtype.itemsize
        for n in self.shape:
            claimed *= n
        if claimed != self.size:
            raise ValueError(f"{self.where}: shape {self.shape} claims {claimed} bytes of {self.size} that are stored")
        array = np.frombuffer(self.file.at(self.place, self.size, work=0), dtype).reshape(self.shape)
        if brain:  # the upper half of a float32
            return np.left_shift(array.astype(np.uint32), 16).view(np.float32)
        return array.astype(dtype.newbyteorder("="))


class File:
    """An HDF5 file of Keras': `arrays` by path, and `names`, what the groups of variables tell of their layers."""

    def __init__(self, file: IO[bytes], size: int, where: str) -> None:
        self.file, self.size, self.where = file, size, where
        self.work = 16 * size + (1 << 16)  # bytes that may be looked at, each thing counting for 64 at least
        self.met: set[int] = set()
        self.heaps: dict[int, dict[int, tuple[int, int]]] = {}
        self.arrays: dict[str, Array] = {}
        self.names: dict[str, str] = {}
        start = self.at(0, 96)  # II.A
        if start[:8] != SIGNATURE or start[8] != 0 or start[13:15] != b"\x08\x08" or start[24:32] != bytes(8):
            raise ValueError(
                f"{where}: HDF5 in a form that h5py does not write for Keras; load and save it there again"
            )
        self._walk(struct.unpack_from("<Q", start, 64)[0])
        if sum(array.size for array in self.arrays.values()) > size:
            raise ValueError(f"{where}: its arrays claim more than the {size} bytes of the file")

    def at(self, place: int, size: int, work: int = 64) -> bytes:
        """So many bytes of the file."""
        self.work -= max(size, work) if work else 0
        if self.work < 0:
            raise self._damaged("it refers to the same places again and again")
        if place + size > self.size:
            raise self._damaged(f"{size} bytes at {place} of a file of {self.size}")
        self.file.seek(place)
        found = self.file.read(size)
        if len(found) != size:
            raise self._damaged(f"{size} bytes at {place} cannot be read")
        return found

    def _damaged(self, why: str) -> ValueError:
        return ValueError(f"{self.where}: damaged: {why}")

    def _unpack(self, form: str, content: bytes, place: int = 0) -> tuple:
        try:
            return struct.unpack_from(form, content, place)
        except struct.error as error:
            raise self._damaged(str(error)) from error

    def _once(self, place: int, path: str) -> int:
        if place in self.met:
            raise ValueError(f"{self.where}: {path} is there twice; not so in Keras' files")
        self.met.add(place)
        return place

    # ---- groups ----------------------------------------------------------------------------------------------

    def _walk(self, root: int) -> None:
        todo, variables, older = [("", root)], False, False
        while todo:
            path, place = todo.pop()
            messages = list(self._messages(self._once(place, path or "/"), path))
            kinds = dict(messages)
            if 0x11 in kinds:
                attributes = dict(self._attribute(content, path) for kind, content in messages if kind == 0x0C)
                older = older or path == "model_weights" or (not path and "layer_names" in attributes)
                base, _, last = path.rpartition("/")
                if last == "vars":
                    variables = True
                    if attributes.get("name"):
                        self.names[base] = str(attributes["name"])
                if path.count("/") >= _DEPTH:
                    raise ValueError(f"{self.where}: {path} is too deep; not so in Keras' files")
                tree, heap = self._unpack("<QQ", kinds[0x11])
                todo += self._group(tree, heap, path)
            elif 0x08 in kinds or 0x03 in kinds:
                self.arrays[path] = self._array(messages, path)
            elif kinds.keys() & {0x02, 0x06, 0x0A}:
                raise ValueError(f"{self.where}: {path or '/'} is a group with links to elsewhere, or in a newer form")
        if older:
            raise ValueError(f"{self.where}: the older HDF5 format; load it with Keras 3 and save it as .keras again")
        if not variables:
            raise ValueError(f"{self.where}: HDF5, but not the weights of a Keras 3 model: no group of the name vars")

    def _group(self, tree: int, heap: int, path: str) -> Iterator[tuple[str, int]]:
        """Paths and places of what a group has: III.A.1, III.B, III.D."""
        signature, size, start = self._unpack("<4s4xQ8xQ", self.at(heap, 32))
        if signature != b"HEAP":
            raise self._damaged(f"the names of {path or '/'}")
        nodes = [tree]
        while nodes:
            place = self._once(nodes.pop(), f"a part of {path or '/'}")
            signature, kind, used = self._unpack("<4sB1xH", self.at(place, 8))
            if signature == b"TREE" and kind == 0:
                keys = self.at(place + 24, 8 + 16 * used)
                nodes += [self._unpack("<Q", keys, 8 + 16 * k)[0] for k in range(used)][::-1]
                continue
            if signature != b"SNOD":
                raise self._damaged(f"the contents of {path or '/'}")
            entries = self.at(place + 8, 40 * used)
            for k in range(used):
                offset, header, cache = self._unpack("<QQI", entries, 40 * k)
                name = self.at(start + offset, max(0, min(_NAME, size - offset, self.size - start - offset)))
                text, end, _ = name.partition(b"\0")
                if not end or not text or b"/" in text:
                    raise self._damaged(f"a name in {path or '/'}")
                inside = text.decode("utf-8", "replace")
                inside = f"{path}/{inside}" if path else inside
                if cache == 2:
                    raise ValueError(f"{self.where}: {inside} is a link; there are none in Keras' files")
                yield inside, header

    def _messages(self, place: int, path: str) -> Iterator[tuple[int, bytes]]:
        """What an object's header says: IV.A.1.a."""
        version, size = self._unpack("<B7xI", self.at(place, 12))
        if version != 1:
            raise ValueError(f"{self.where}: {path or '/'}: HDF5 in a form that h5py does not write for Keras")
        blocks = [(place + 16, size)]
        while blocks:
            start, size = blocks.pop(0)
            block, k = self.at(start, size), 0
            while k + 8 <= size:
                kind, length, flags = self._unpack("<HHB", block, k)
                content = block[k + 8 : k + 8 + length]
                if len(content) != length or flags & 2:
                    raise self._damaged(f"{path or '/'}, in its header")
                if kind == 0x10:
                    after, more = self._unpack("<QQ", content)
                    blocks.append((self._once(after, f"the header of {path or '/'}"), more))
                else:
                    yield kind, content
                k += 8 + length

    # ---- arrays and attributes -------------------------------------------------------------------------------

    def _array(self, messages: list[tuple[int, bytes]], path: str) -> Array:
        kinds = dict(messages)
        shape = self._shape(kinds.get(0x01, b""))
        dtype = self._dtype(kinds.get(0x03, b""))
        if dtype == "!V2":
            attributes = dict(self._attribute(content, path) for kind, content in messages if kind == 0x0C)
            dtype = "<bfloat16" if attributes.get("dtype") == "bfloat16" else "!opaque; expected floating point numbers"
        layout, size = kinds.get(0x08, b""), 0
        place, size = self._unpack("<QQ", layout, 2) if layout[1:2] == b"\x01" and layout[0] in (3, 4) else (0, -1)
        if size < 0 or kinds.keys() & {0x07, 0x0B}:  # in other files, filtered
            place, size, dtype = 0, 0, "!in chunks, compressed or in another file; expected one piece, as of Keras"
        elif shape is None:
            dtype = "!an empty dataspace; expected numbers"
        elif place == 0xFFFFFFFFFFFFFFFF:  # never written
            place, size = 0, 0
        return Array(f"{self.where}: {path}", self, shape or (), dtype, place, size)

    def _shape(self, content: bytes) -> tuple[int, ...] | None:
        """IV.A.2.b; None where there are no numbers."""
        version, rank, _, kind = self._unpack("<4B", content)
        if version not in (1, 2) or rank > 32 or (version == 2 and kind == 2):
            return None
        return self._unpack(f"<{rank}Q", content, 8 if version == 1 else 4)

    def _dtype(self, content: bytes) -> str:
        """IV.A.2.d."""
        kind, bits, size = self._unpack("<BB2xI", content)
        if kind & 15 == 1:
            found = _FLOATS.get((size, *self._unpack("<HHBBBBI", content, 8)))
            if found and not bits & 0x40:
                return (">" if bits & 1 else "<") + found
        if kind & 15 == 5 and size == 2:
            return "!V2"
        return f"!dtype of class {kind & 15} and {size} bytes; expected floating point numbers"

    def _attribute(self, content: bytes, path: str) -> tuple[str, str | None]:
        """Its name, and its value if that is one text: IV.A.2.m, IV.A.2.d, III.E."""
        version, flags, *sizes = self._unpack("<BBHHH", content)
        if version not in (1, 2, 3) or (version > 1 and flags):
            return "", None
        place, parts = 9 if version == 3 else 8, []
        for size in sizes:
            parts.append(content[place : place + size])
            place += (size + 7) // 8 * 8 if version == 1 else size
        name, dtype, shape = parts[0].rstrip(b"\0").decode("utf-8", "replace"), parts[1], parts[2]
        kind, bits, size = self._unpack("<BB2xI", dtype)
        if name not in ("name", "dtype") or self._shape(shape) != ():
            return name, None
        if kind & 15 == 3:
            return name, content[place : place + size].rstrip(b"\0 ").decode("utf-8", "replace")
        if kind & 15 != 9 or bits & 15 != 1:
            return name, None
        length, heap, number = self._unpack("<IQI", content, place)
        at, held = self._heap(heap).get(number, (0, -1))
        if length > held:
            raise self._damaged(f"the text {name} of {path}")
        return name, self.at(at, length).decode("utf-8", "replace")

    def _heap(self, place: int) -> dict[int, tuple[int, int]]:
        """Of a collection of texts the place and the size of each by its number: III.E."""
        if place not in self.heaps:
            signature, size = self._unpack("<4s4xQ", self.at(place, 16))
            if signature != b"GCOL":
                raise self._damaged(f"the texts at {place}")
            content, k, found = self.at(place, size), 16, {}
            while k + 16 <= size:
                number, length = self._unpack("<H6xQ", content, k)
                if number == 0:  # what is free, to the end
                    break
                self.work -= 64
                found[number] = (place + k + 16, length)
                k += 16 + (length + 7) // 8 * 8
            self.heaps[place] = found
        return self.heaps[place]
