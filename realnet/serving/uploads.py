"""Read photographs that come over the network: bytes of an image, or a form with one file; never a path or a URL."""

import io
from email import policy
from email.parser import BytesParser

from PIL import Image as PILImage

from realnet.data.images import Image, read_image
from realnet.errors import UserError

FORM = "multipart/form-data"


class TooLarge(Exception):
    """A body or a photograph beyond the limits."""


def require_image(content_type: str) -> None:
    """Refuse content that says it is neither an image nor a form nor bytes.

    Raises:
        UserError: for another content type.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if not (kind.startswith("image/") or kind in {FORM, "application/octet-stream", ""}):
        raise UserError(f"{content_type[:100]} is no image; send an image's bytes, or a form with one file")


def unwrap(body: bytes, content_type: str) -> tuple[str, bytes]:
    """Return the name and the bytes of the photograph in a body; the name is "" where the body is the photograph.

    Raises:
        UserError: for a form without exactly one file.
    """
    if not content_type.lower().startswith(FORM):
        return "", body
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1", "replace")
    message = BytesParser(policy=policy.HTTP).parsebytes(head + body)
    parts = message.iter_parts() if message.is_multipart() else ()
    files = [part for part in parts if part.get_filename() is not None]
    if len(files) != 1:
        raise UserError(f"the form holds {len(files)} files; send one photograph at a time")
    data = files[0].get_payload(decode=True)
    return str(files[0].get_filename())[:255], data if isinstance(data, bytes) else b""


def decode(data: bytes, num_pixels: int, *, bits: int = 16) -> Image:
    """Return the photograph, uint8 RGB (H, W, 3), if it is not too large; ``bits`` are those of 16-bit values.

    Raises:
        TooLarge: if it has more pixels; they are not decoded.
        UserError: if the bytes are no whole image.
    """
    try:
        with PILImage.open(io.BytesIO(data)) as header:
            width, height = header.size
    except PILImage.DecompressionBombError as error:
        raise TooLarge(f"{error} Send a smaller photograph") from error
    except Exception as error:  # Pillow raises many types for what is no image
        raise UserError(f"{len(data)} bytes that are not an image; send JPEG, PNG, TIFF, BMP or WebP") from error
    if width * height > num_pixels:
        raise TooLarge(f"the photograph has {width}x{height} pixels, more than {num_pixels}; send a smaller one")
    return read_image(data, bits)
