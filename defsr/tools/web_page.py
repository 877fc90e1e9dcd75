"""The page of ``defsr-web``: what stands where, and what a press of the button does."""

from __future__ import annotations

import html
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr
import numpy as np

from defsr.images.formats import PHOTO_FORMATS
from defsr.images.photo import read_photo
from defsr.tools.web_job import Remaining, Settings, Shown, StoppedError, enlarge, shown
from defsr.upscaling import Upscaler
from defsr.utils.cli import MISTAKES, message_of, visible

MOST_UPLOADED = '256mb'  # a file
KEPT_SECONDS = 6 * 3600  # of what lies in the temporary folder, at most
LOOK_SECONDS = 600  # how often that is looked at
WAITING = 8  # jobs, beside the one that runs
PREVIEW = 2**16  # pixels
NO_MAPS = 'No reference was brought into the frame of the photo: no maps of it are shown.'
FONTS = {'font': ['system-ui', 'sans-serif'], 'font_mono': ['ui-monospace', 'monospace']}
CSS = """
.gradio-container { max-width: 1500px !important; }
#matches .thumbnail-item, #given .thumbnail-item { aspect-ratio: auto; height: auto; }
#matches .grid-wrap, #given .grid-wrap { min-height: 0; max-height: none; overflow-y: auto; }
#given .grid-wrap { padding-top: var(--size-8); }
#rectified img, #rho img { width: 100%; }
#rho img { image-rendering: pixelated; }
"""
INFO = {'block_info_text_color': '*neutral_600', 'block_info_text_color_dark': '*neutral_300'}
Numbers = tuple[tuple[str, str, float, int | None], ...]
LIMITS: Numbers = (  # name, label, least, digits
    ('best', 'References used at most: those with most confirmed matches', 1, 0),
    ('tile', 'Side of the pieces it works in, pixels of the photo', 16, 0),
    ('overlap', 'What the pieces share', 0, 0),
    ('max_megapixels', 'Largest image, megapixels', 0, None),
    ('max_ref_megapixels', 'All references together, megapixels; larger ones are reduced', 0, None),
)


@contextmanager
def refusals(folder: Path) -> Iterator[None]:
    """A mistake becomes a line on the page, which names files without their folder."""
    try:
        yield
    except MISTAKES as error:
        line = message_of(error)
        for parent in sorted({*map(str, folder.rglob('*'))}, key=len, reverse=True):
            line = line.replace(f'{parent}/', '')
        text = html.escape(visible(line), quote=False)
        raise gr.Error(text, duration=None, print_exception=False) from None


def previews(files: Sequence[str | None]) -> list[tuple[np.ndarray, str]]:
    """Small upright pictures of files with their names. Errors as of ``read_photo``."""
    paths = [Path(file) for file in files if file]
    return [(shown(read_photo(path).rgb, PREVIEW), path.name) for path in paths]


class Page:
    """The page's parts, and what they do.

    Args:
        build: (quality, rectify) -> what does the work.
        folder: for temporary files, with nothing else in it.
    """

    def __init__(self, build: Callable[[str, bool], Upscaler], folder: Path) -> None:
        self.build, self.folder = build, folder
        self.results: Path | None = None
        self._asked: dict[str, Event] = {}  # to stop, by who is at the page
        with gr.Blocks(
            title='defsr', analytics_enabled=False, delete_cache=(LOOK_SECONDS, KEPT_SECONDS)
        ) as self.blocks:
            gr.Markdown(
                '# Upscale a photo with other photos of the scene\n'
                'Sides become four times as long. Nothing leaves this machine.'
            )
            with gr.Row():
                with gr.Column(scale=2, min_width=320):
                    self._place_inputs()
                with gr.Column(scale=3, min_width=320):
                    self._place_outputs()
            self._connect()

    def _place_inputs(self) -> None:
        usual = Settings()
        endings = ', '.join(PHOTO_FORMATS)
        self.photo = gr.File(label=f'Photo ({endings})', elem_id='photo', height=110)
        self.references = gr.File(
            label='References with more detail',
            file_count='multiple', elem_id='references', height=150,
        )  # fmt: skip
        self.previews = gr.Gallery(
            label='What was given', columns=3, height='auto', object_fit='contain', visible=False,
            format='png', interactive=False, buttons=[], elem_id='given',
        )  # fmt: skip
        self.quality = gr.Radio(
            ['auto', 'clean', 'photo'],
            value=usual.quality,
            label='The photo is',
            info='clean; with noise or traces of JPEG (photo); or it is looked at (auto)',
        )
        self.rectify = gr.Checkbox(
            usual.rectify,
            label='Bring references into the frame of the photo',
            info='off: take textures from them as they are',
        )
        with gr.Accordion('Limits', open=False):
            self.limits = {
                name: gr.Number(getattr(usual, name), label=label, minimum=least, precision=digits)
                for name, label, least, digits in LIMITS
            }
        with gr.Row():
            self.button = gr.Button('Upscale', variant='primary', elem_id='go')
            self.stop = gr.Button('Stop', variant='stop', elem_id='stop', interactive=False)

    def _place_outputs(self) -> None:
        self.slider = gr.ImageSlider(
            label='Bicubic, and the result', elem_id='before_after', format='png',
            interactive=False, max_height=900, buttons=['fullscreen'],
        )  # fmt: skip
        self.download = gr.DownloadButton(
            'Download the result (PNG)', interactive=False, elem_id='download'
        )
        self.told = gr.Textbox(
            label='What became of the references', lines=4, max_lines=20, elem_id='told'
        )
        with gr.Tabs():
            with gr.Tab('Matches'):
                self.matches = gr.Gallery(
                    label='Confirmed matches', columns=1, height='auto', object_fit='contain',
                    format='png', interactive=False, buttons=['fullscreen'], elem_id='matches',
                )  # fmt: skip
            with gr.Tab('Rectified'):
                self.rectified = self._map(
                    'References in the frame of the photo, at each place the best', 'rectified'
                )
            with gr.Tab('rho'):
                self.rho = self._map('How well it explains the photo: white is 1', 'rho')

    @staticmethod
    def _map(label: str, name: str) -> gr.Image:
        return gr.Image(
            label=label, format='png', interactive=False, buttons=['fullscreen'], elem_id=name
        )

    def _connect(self) -> None:
        files = [self.photo, self.references]
        outputs = [self.slider, self.download, self.told, self.matches, self.rectified, self.rho]
        private = {'api_visibility': 'private'}
        for given in files:
            given.change(self.preview, files, self.previews, show_progress='hidden', **private)
        chosen = {*files, self.quality, self.rectify, *self.limits.values()}
        self.button.click(
            self.begin, None, [*outputs, self.stop], show_progress='hidden', **private
        ).then(
            self.work, chosen, outputs, show_progress_on=[self.slider],
            concurrency_id='work', concurrency_limit=1, **private,
        ).then(self.end, None, self.stop, show_progress='hidden', **private)  # fmt: skip
        self.stop.click(self.ask_to_stop, None, self.stop, queue=False, **private)

    def preview(self, photo: str | None, references: list[str] | None) -> Any:
        """What was dropped, small: or at once why it is of no use."""
        with refusals(self.folder):
            pictures = previews([photo, *(references or [])])
        return gr.update(value=pictures, visible=bool(pictures))

    def begin(self, request: gr.Request) -> list[Any]:
        """An empty page, and a job that can be stopped from now on, also while it waits."""
        self._asked[request.session_hash] = Event()
        return [*self.filled(None), gr.update(interactive=True)]

    def ask_to_stop(self, request: gr.Request) -> Any:
        """The job of this page ends at its next step."""
        asked = self._asked.get(request.session_hash)
        if asked is not None:
            asked.set()
        return gr.update(interactive=False)

    def end(self, request: gr.Request) -> Any:
        """The job is done, refused or stopped."""
        self._asked.pop(request.session_hash, None)
        return gr.update(interactive=False)

    def work(
        self,
        given: dict[Any, Any],
        request: gr.Request,
        bar: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio looks for it there)
    ) -> list[Any]:
        """A press of the button: of each input what it holds."""
        remaining, asked = Remaining(), self._asked.get(request.session_hash, Event())

        def advance(stage: str, done: int, total: int) -> None:
            if asked.is_set():
                raise StoppedError
            bar((done, total), desc=remaining(stage, done, total))

        with refusals(self.folder), suppress(StoppedError):
            advance('choose', 0, 1)  # it may have waited
            if given[self.photo] is None:
                raise ValueError('No photo is given.')
            limits = {name: given[field] for name, field in self.limits.items()}
            settings = Settings(given[self.quality], given[self.rectify], **limits)
            return self.filled(
                enlarge(
                    self.build(settings.quality, settings.rectify),
                    given[self.photo],
                    given[self.references] or [],
                    settings,
                    self._anew(),
                    advance,
                )
            )
        gr.Info('Stopped.')
        return self.filled(None)

    def _anew(self) -> Path:
        """A folder for the result; that of the last one goes: one job is done at a time."""
        if self.results is not None:
            shutil.rmtree(self.results, ignore_errors=True)
        self.results = Path(tempfile.mkdtemp(dir=self.folder))
        return self.results

    @staticmethod
    def filled(found: Shown | None) -> list[Any]:
        """Of the outputs what they show, in their order."""
        if found is None:
            return [None, gr.update(value=None, interactive=False), '', None, None, None]
        lines = [*found.lines] if found.maps else [*found.lines, NO_MAPS]
        return [
            (found.before, found.after),
            gr.update(value=str(found.file), interactive=True),
            '\n'.join(lines),
            found.matches,
            found.maps.get('rectified'),
            found.maps.get('rho'),
        ]


@contextmanager
def serve(
    build: Callable[[str, bool], Upscaler], folder: Path, host: str, port: int
) -> Iterator[str]:
    """The page, served inside the ``with``; its address.

    Args:
        build: see ``Page``.
        folder: see ``Page``; Gradio's own temporary files are in ``GRADIO_TEMP_DIR``.
        host, port: free ones.
    """
    blocks = Page(build, folder).blocks.queue(max_size=WAITING, default_concurrency_limit=1)
    theme = gr.themes.Base(**FONTS).set(**INFO)
    _, address, _ = blocks.launch(
        server_name=host, server_port=port, share=False, prevent_thread_lock=True, quiet=True,
        max_file_size=MOST_UPLOADED, footer_links=[], run_history=False, enable_monitoring=False,
        ssr_mode=False, mcp_server=False, pwa=False, css=CSS, theme=theme,
    )  # fmt: skip
    try:
        yield address
    finally:
        blocks.close(verbose=False)
