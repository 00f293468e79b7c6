"""What HTML pages have in common: the frame, the look, and how they are written. Each is one file without network."""

import base64
import html
from pathlib import Path

from infoae_jax.errors import UserError
from infoae_jax.files import write_atomically


def document(title: str, body: str, style: str = "", script: str = "") -> str:
    """A whole page around `body`; `style` is added to the common one, `script` runs once the page is there."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{MARK}\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · infoae_jax</title><style>{STYLE}{style}</style></head>\n"
        f"<body><main>\n{body}\n</main>{f'<script>{script}</script>' if script else ''}</body></html>\n"
    )


def save_page(text: str, out: Path) -> None:
    """Writes a page.

    Raises:
      UserError: if `out` is a file that is no such page, or cannot be written.
    """
    try:
        if out.exists() and MARK not in out.read_bytes()[:4096].decode(errors="replace"):
            raise UserError(f"{str(out)!r} exists and is no report. Choose another --out.")
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, text.encode())
    except OSError as error:
        raise UserError(f"The report cannot be written to {str(out)!r} ({error}). Choose another --out.") from error


def escape(text: str) -> str:
    return html.escape(text, quote=True)


def data_uri(picture: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


MARK = '<meta name="generator" content="infoae_jax report">'
STYLE = """
:root { color-scheme: light dark; --page: #fafaf8; --card: #fff; --ink: #1d1f21; --muted: #666b70; --rule: #dddcd6;
  --s0: #2563a8; --s1: #c2571a; --s2: #2c7d4f; --s3: #8a4fa3; --s4: #a8842a; --s5: #b03a5b; }
@media (prefers-color-scheme: dark) {
  :root { --page: #16181a; --card: #1f2225; --ink: #e8e6e1; --muted: #9da3a8; --rule: #34383c;
    --s0: #6aa9ee; --s1: #f0935a; --s2: #67c08d; --s3: #c48fdd; --s4: #dcb75c; --s5: #ec7f9d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 64px; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 44px 0 4px; } .card h2, .card h3 { margin: 0; font-size: 1.05rem; }
h3 { font-size: 1rem; margin: 18px 0 4px; } p { margin: 0 0 12px; color: var(--muted); }
.runs { display: grid; gap: 20px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); }
header + .runs { margin-top: 20px; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 16px 18px; min-width: 0; }
.card h2 { overflow-wrap: anywhere; } .card p { font-size: .9rem; }
.tiles { display: grid; gap: 14px 18px; grid-template-columns: repeat(auto-fit, minmax(104px, 1fr)); }
.tile { display: flex; flex-direction: column; } .tile span, .tile small { color: var(--muted); font-size: .8rem; }
.tile b { font-size: 1.5rem; line-height: 1.25; font-weight: 600; font-variant-numeric: tabular-nums; }
.dot { display: inline-block; width: .65em; height: .65em; border-radius: 50%; margin-right: .45em;
  background: currentColor; }
.s0 { color: var(--s0); } .s1 { color: var(--s1); } .s2 { color: var(--s2); }
.s3 { color: var(--s3); } .s4 { color: var(--s4); } .s5 { color: var(--s5); }
figure { margin: 0; min-width: 0; } figcaption { color: var(--muted); font-size: .85rem; margin: 4px 0; }
img { width: 100%; max-width: 720px; height: auto; display: block; border-radius: 6px; border: 1px solid var(--rule); }
.strip { display: flex; gap: 14px; overflow-x: auto; padding-bottom: 10px; } .strip figure { flex: 0 0 250px; }
.charts { display: grid; gap: 24px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); }
svg { width: 100%; height: auto; display: block; } svg text { font-size: 11px; fill: var(--muted); }
.grid { stroke: var(--rule); stroke-width: 1; }
.line { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--rule); vertical-align: top;
  font-weight: 400; }
td { font-variant-numeric: tabular-nums; } thead th { color: var(--muted); font-size: .85rem; }
.group th { padding-top: 18px; font-weight: 600; } .muted { color: var(--muted); }
details { margin: 8px 0; } summary { cursor: pointer; } pre { overflow-x: auto; font-size: .8rem;
  background: var(--card);
  border: 1px solid var(--rule); border-radius: 8px; padding: 12px; }
ul { margin: 0 0 12px; padding-left: 20px; } code { overflow-wrap: anywhere; }
@media (max-width: 520px) { main { padding: 16px 14px 48px; } .strip figure { flex-basis: 78vw; }
  h1 { font-size: 1.5rem; } }
"""
