"""Files that unpack to far more than their size, or claim to: functions that write one to a folder and return it."""

import bz2
import gzip
import io
import lzma
import pickle
import struct
import tarfile
import zipfile
import zlib

MIB = 1 << 20
SIZE = 96 * MIB  # what comes out of a bomb: three times the limit of the tests


def zeros(file, count):
    for _ in range(count // MIB):
        file.write(bytes(MIB))


def png(width, height, written=None):
    """A PNG of zeros, 1 byte a pixel. Its header claims all rows; `written` says how many there are."""
    packer = zlib.compressobj(9)
    rows = [packer.compress(bytes((width + 1) * 64)) for _ in range(0, height if written is None else written, 64)]

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"".join([*rows, packer.flush()])) + chunk(b"IEND", b"")


def zip_of(path, members, packing=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", packing, compresslevel=1) as archive:
        for name, content in members:
            with archive.open(name, "w", force_zip64=True) as file:
                content(file) if callable(content) else file.write(content)
    return path


def zip_large_member(folder):
    return zip_of(folder / "large.zip", [("train/a/0.png", lambda file: zeros(file, SIZE))])


def zip_bzip2_member(folder):
    return zip_of(folder / "bzip2.zip", [("a/0.png", lambda f: zeros(f, SIZE))], zipfile.ZIP_BZIP2)


def zip_claims_less(folder):
    """The directory says 10 bytes, but 96 MiB come."""
    path = zip_large_member(folder)
    raw = bytearray(path.read_bytes())
    entry = raw.rindex(b"PK\x01\x02")
    raw[entry + 24 : entry + 28] = struct.pack("<I", 10)
    return replaced(path, "less.zip", bytes(raw))


def replaced(path, name, raw):
    path.unlink()
    path.with_name(name).write_bytes(raw)
    return path.with_name(name)


def zip_many_members(folder):
    image = png(1000, 1000)
    return zip_of(folder / "many.zip", [(f"{'ab'[i % 2]}/{i}.png", image) for i in range(200)])


def zip_many_resized(folder):
    """Resized, the images are small; decoded one after another, they are 400 million pixels from 400 kB."""
    image = png(1000, 1000)
    return zip_of(folder / "resized.zip", [(f"{'ab'[i % 2]}/{i}.png", image) for i in range(400)])


def zip_many_names(folder):
    return zip_of(folder / "names.zip", [(f"a/{i}.txt", b"") for i in range(40_000)], zipfile.ZIP_STORED)


def image_claims_pixels(folder):
    return zip_of(folder / "claims.zip", [("a/0.png", png(12_000, 12_000, 64)), ("a/1.png", png(8, 8))])


def image_claims_more_pixels_than_pillow_reads(folder):
    return zip_of(folder / "pillow.zip", [("a/0.png", png(100_000, 100_000, 1)), ("a/1.png", png(8, 8))])


def image_in_folder(folder):
    (folder / "images" / "a").mkdir(parents=True)
    (folder / "images" / "a" / "0.png").write_bytes(png(8_000, 8_000))
    return folder / "images"


def large_file_in_folder(folder):
    (folder / "sparse" / "a").mkdir(parents=True)
    with (folder / "sparse" / "a" / "0.png").open("wb") as file:
        file.truncate(1 << 40)
    return folder / "sparse"


def images_in_folder(folder):
    image = png(1000, 1000)
    for i in range(100):
        (folder / "folder" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        (folder / "folder" / "ab"[i % 2] / f"{i}.png").write_bytes(image)
    return folder / "folder"


def tar_of(path, opener, size, name="a/0.png", claimed=None):
    with opener(path) as file:
        info = tarfile.TarInfo(name)
        info.size = claimed or size
        file.write(info.tobuf())
        zeros(file, size)
        file.write(bytes(10240))
    return path


def tar_gz(folder):
    return tar_of(folder / "x.tar.gz", lambda p: gzip.open(p, "wb", 1), SIZE)


def tar_gz_skipped(folder):
    """The large member is no image, but it must be unpacked to get behind it. Nothing of it is kept."""
    return tar_of(folder / "skipped.tar.gz", lambda p: gzip.open(p, "wb", 1), SIZE, "a/readme.txt")


def tar_xz(folder):
    return tar_of(folder / "x.tar.xz", lambda p: lzma.open(p, "wb", preset=0), SIZE, "a/readme.txt")


def tar_bz2(folder):
    return tar_of(folder / "x.tar.bz2", lambda p: bz2.open(p, "wb", 1), SIZE, "a/readme.txt")


def tar_claims(folder):
    return tar_of(folder / "claims.tar", lambda p: p.open("wb"), MIB, claimed=1 << 40)


def tar_long_name(folder):
    """A header for a long name says that the name has 96 MiB."""

    def header(file):
        info = tarfile.TarInfo("././@LongLink")
        info.type, info.size = tarfile.GNUTYPE_LONGNAME, SIZE
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        zeros(file, SIZE)

    path = folder / "name.tar.gz"
    with gzip.open(path, "wb", 1) as file:
        header(file)
    return path


def idx(shape, code=8):
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, code, len(shape), *shape)


def idx_folder(folder, images):
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx((2,)) + bytes(2))
    return folder


def idx_gzip(folder, shape=(96, 1024, 1024)):
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) as file:
        file.write(idx(shape))
        zeros(file, SIZE)
    return idx_folder(folder, buffer.getvalue())


def idx_gzip_more_than_its_header(folder):
    return idx_gzip(folder, shape=(2, 2, 2))


def idx_claims(folder):
    return idx_folder(folder, idx((1 << 31, 1 << 31, 1 << 31)) + bytes(100))


def idx_claims_in_gzip(folder):
    return idx_folder(folder, gzip.compress(idx((1 << 31, 1 << 31, 1 << 31)) + bytes(100)))


def npy(header, content=b""):
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + (b"" if callable(content) else content)


def npz(folder, name, shape, code="|u1", size=0, **others):
    def large(file):
        file.write(npy(f"{{'descr': {code!r}, 'fortran_order': False, 'shape': {shape}, }}"))
        zeros(file, size)

    labels = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }", bytes(2))
    content = {"x_train": large, "y_train": labels, "x_test": large, "y_test": labels} | others
    return zip_of(folder / f"{name}.npz", [(f"{key}.npy", value) for key, value in content.items()])


def npz_large(folder):
    return npz(folder, "large", (2, 48, 1024, 1024), size=SIZE)


def npz_claims(folder):
    return npz(folder, "claims", (2, 1 << 40))


def npz_claims_absurd(folder):
    return npz(folder, "absurd", (10**30, 10**30))


def npz_claims_nothing_of_much(folder):
    return npz(folder, "nothing", (0, 10**30))


def npz_wide_strings(folder):
    """Labels as strings of a million characters: all labels in one array would take 80 GB."""
    wide = npy("{'descr': '<U1000000', 'fortran_order': False, 'shape': (2,), }") + bytes(8_000_000)
    narrow = npy("{'descr': '<U1', 'fortran_order': False, 'shape': (20000,), }") + bytes(80_000)
    many = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (20000, 1), }") + bytes(20_000)
    few = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 1), }") + bytes(2)
    return npz(folder, "strings", (2, 2), x_train=many, y_train=narrow, x_test=few, y_test=wide)


def npz_becomes_float(folder):
    """Bytes in the training part, a fraction in the test part: all images become float32."""
    few = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 16, 1024, 1024), }")
    fractions = lambda file: (file.write(few), zeros(file, 128 * MIB))  # noqa: E731
    return npz(folder, "float", (2, 12, 1024, 1024), size=24 * MIB, x_test=fractions)


def cifar(folder, data):
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(data)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a", "b"]}))
    return folder


def pickle_many_lists(folder):
    return cifar(folder, b"\x80\x02}X\4\0\0\0data(" + b"]" * 4_000_000 + b"ls.")


def pickle_memo_claims(folder):
    """One instruction, for which the unpickler of Python makes a table of 32 GiB."""
    return cifar(folder, b"\x80\x02}r\xff\xff\xff\x7f.")


def pickle_bytes_claim(folder):
    return cifar(folder, b"\x80\x05}\x8e" + struct.pack("<Q", 1 << 40) + b"ab.")


def pickle_doubling(folder):
    """A list of two lists, which are the same list of two lists, 64 times: 2^64 elements."""
    steps = b"".join(b"](h%ch%ceq%c0" % (i, i, i + 1) for i in range(64))
    return cifar(folder, b"\x80\x02}X\4\0\0\0data]q\x000" + steps + b"h\x40s.")


def mat_element(kind, data):
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def mat(folder, sizes, numbers, claimed=None):
    """An svhn folder whose X has these sizes, packed."""

    def packed():
        packer = zlib.compressobj(9)
        start = mat_element(6, struct.pack("<II", 9, 0)) + mat_element(5, struct.pack(f"<{len(sizes)}i", *sizes))
        start += mat_element(1, b"X") + struct.pack("<II", 2, numbers if claimed is None else claimed)
        yield packer.compress(struct.pack("<II", 14, len(start) + numbers) + start)
        for _ in range(numbers // MIB):
            yield packer.compress(bytes(MIB))
        yield packer.flush()

    content = b"".join(packed())
    header = b"MATLAB 5.0".ljust(124) + b"\0\1IM"
    for file in ("train_32x32.mat", "test_32x32.mat"):
        (folder / file).write_bytes(header + struct.pack("<II", 15, len(content)) + content)
    return folder


def mat_large(folder):
    return mat(folder, (1024, 1024, 96, 1), SIZE)


def mat_claims(folder):
    return mat(folder, (65535, 65535, 3, 60000), 0, claimed=(1 << 32) - 1)


BOMBS = {
    name: value
    for name, value in list(globals().items())
    if callable(value)
    and getattr(value, "__code__", None)
    and value.__code__.co_varnames[:1] == ("folder",)
    and value.__code__.co_argcount == 1
}
