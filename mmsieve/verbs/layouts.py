"""layouts: what is read, with an example and a command each."""

from dataclasses import dataclass

from mmsieve.read.layouts import LAYOUTS, LayoutForm, LayoutReader
from mmsieve.reports import Printed

_MODELS = {"score": "unifilter-tiny", "rate": "mmssr-tiny-scorer --styler mmssr-tiny-styler"}

_HEAD = """# Layouts

What `mmsieve` reads, recognised from the content; `mmsieve look SOURCE` says as what. This page is
what `mmsieve layouts --markdown` prints.

- `--layout NAME` overrides what is recognised. What is in no layout is refused, with its fields.
- `--images DIR`: the folder that image paths are relative to.
- `--image-column`, `--text-column`, `--key-column` name a column, a field or a tar's member:
  `caption`, `json:caption` (a field inside another), `captions[1]` (the second of several). Of
  several captions the first is read, and the run says so.
- Any image may be bytes, `{bytes, path}`, a path, `file://`, base64 or a `data:` address. Images
  that are web addresses only are refused: download them first, with img2dataset.
- Keys that come again in a file of rows are no fault: all but the first get the file's name and
  the row's number. Under `--key-column` they are duplicates.
- A tar's key ends at the first dot of a member's name (webdataset's rule); hidden members and those
  below `__MACOSX` are none. A file's in a folder ends at the last.
- Captions that say nothing (empty, blank, `None`, `nan`, ...) are `text_missing` in `score`.
- A json that is no object costs a caption pair nothing: it has no metadata then, and the run says
  of how many samples.
- `.gz`, `.zst`, `.bz2` and `.xz` are unpacked into a temporary file, a shard each; to at most 100
  times their size (or 256 MiB).
- Formats of images: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000, PPM, ICO. 16-bit, float and
  transparent ones become RGB as in the published code; where that leaves one flat colour the run
  says so, and `--convert-well` scales them to 8 bits and lays them on white.
- Manifests are one pool: LLaVA-OneVision's YAML and InternVL's meta JSON, each file with its root;
  LLaMA-Factory's `dataset_info.json`, whose `columns` and `tags` say what fields are called. Of
  instruction items, fields that `columns` doesn't name are not read, as there.
- Folders of `save_to_disk` are read as they are: neither `datasets` nor an extra is needed.
- What is kept comes out in tars, in Parquet, or as it came: [exporting.md](exporting.md).
"""


@dataclass(frozen=True, kw_only=True)
class LayoutsReport(Printed):
    """The layouts that are read."""

    markdown: bool = False

    def summary(self) -> str:
        """A few lines per layout, or the page of the documentation."""
        parts = [_HEAD] if self.markdown else []
        show = _section if self.markdown else _lines
        return "\n".join([*parts, *(show(name, one) for name, one in LAYOUTS.items())]).rstrip()


def _lines(name: str, layout: LayoutReader) -> str:
    lines = [name, f"    {layout.about}"]
    for form in layout.forms:
        lines += [f"    {form.example}", *([f"        {form.of}"] if form.of else [])]
    return "\n".join([*lines, f"    $ {_command(layout, layout.forms[0])}"])


def _section(name: str, layout: LayoutReader) -> str:
    suffixes = ", ".join("folders" if s == "/" else f"`{s}`" for s in layout.suffixes)
    lines = [f"## {name}", "", f"{layout.about} In {suffixes}.", ""]
    for form in layout.forms:
        of = f" ({form.of})" if form.of else ""
        lines += [
            f"`{form.source}`{of}:",
            "",
            f"    {form.example}",
            f"    {_command(layout, form)}",
        ]
        lines += [""]
    return "\n".join(lines)


def _command(layout: LayoutReader, form: LayoutForm) -> str:
    model, *rest = _MODELS[layout.verb].split()
    words = ["mmsieve", layout.verb, form.source, form.flags, "--model", model, *rest]
    return " ".join(filter(None, [*words, "--out", "table"]))


def list_layouts(*, markdown: bool = False) -> LayoutsReport:
    """List the layouts that are read, with an example each.

    Parameters
    ----------
    markdown
        Print them as the page of the documentation.
    """
    return LayoutsReport(markdown=markdown)
