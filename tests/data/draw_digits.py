"""Draws tests/data/digits/: printed digits in fonts that no training picture is made of.

Needs Debian's fonts-dejavu-core, fonts-liberation, fonts-freefont-ttf and fonts-open-sans; the pictures are
committed, so only a change of them needs the fonts.
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FOLDER = Path(__file__).parent / "digits"
FONTS = {
    "dejavu-sans": "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "liberation-serif": "/usr/share/fonts/truetype/liberation/LiberationSerif-Regular.ttf",
    "liberation-sans": "/usr/share/fonts/truetype/liberation/LiberationSans-Regular.ttf",
    "freemono-bold": "/usr/share/fonts/truetype/freefont/FreeMonoBold.ttf",
    "open-sans": "/usr/share/fonts/truetype/open-sans/OpenSans-Regular.ttf",
}
EDGE = 64
FONT_SIZE = 40
LIGHT, DARK = 240, 20
OFF_CENTRE = (10, -8)
JPEG_QUALITY = 75


def draw(digit: int, font: str, ink: int, ground: int, shift: tuple[int, int] = (0, 0)) -> Image.Image:
    """A greyscale picture EDGE square, the digit's ink centred and then moved right and down by `shift` pixels."""
    image = Image.new("L", (EDGE, EDGE), ground)
    pen = ImageDraw.Draw(image)
    typeface = ImageFont.truetype(font, FONT_SIZE)
    left, top, right, bottom = pen.textbbox((0, 0), str(digit), font=typeface)
    corner = ((EDGE - left - right) / 2 + shift[0], (EDGE - top - bottom) / 2 + shift[1])
    pen.text(corner, str(digit), fill=ink, font=typeface)
    return image


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for digit in range(10):
        for name, font in FONTS.items():
            draw(digit, font, DARK, LIGHT).save(FOLDER / f"{name}-{digit}.png", optimize=True)
        dejavu = FONTS["dejavu-sans"]
        draw(digit, dejavu, LIGHT, DARK).save(FOLDER / f"dejavu-sans-inverted-{digit}.png", optimize=True)
        off_centre = draw(digit, dejavu, DARK, LIGHT, OFF_CENTRE)
        off_centre.save(FOLDER / f"dejavu-sans-off-centre-{digit}.png", optimize=True)
        draw(digit, dejavu, DARK, LIGHT).save(FOLDER / f"dejavu-sans-{digit}.jpg", quality=JPEG_QUALITY)


if __name__ == "__main__":
    main()
