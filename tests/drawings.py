"""Digits as people draw them, as arrays, files and data URLs."""

import base64
import io

import numpy as np
from PIL import Image, ImageDraw


def digit(size=(280, 280), box=(60, 40, 160, 240), width=20, ink=255, ground=0):
    """A ring and a bar, with nothing in the middle."""
    image = Image.new("L", size, ground)
    draw = ImageDraw.Draw(image)
    draw.ellipse(box, outline=ink, width=width)
    draw.line((box[2], box[1], box[2], (box[1] + 2 * box[3]) // 3), fill=ink, width=width)
    return image


def pen_drawing(height=300, width=200, top=30, left=20):
    """A thin 'L' in ink on shaded paper."""
    page = np.linspace(200, 235, height)[:, None] + np.zeros((height, width))
    page[top : top + 120, left : left + 6] = 30
    page[top + 114 : top + 120, left : left + 60] = 30
    return page.astype(np.uint8)


def as_file(image, kind="PNG"):
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def from_data_url(url):
    """The pixels of an image in a page."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("L"))
