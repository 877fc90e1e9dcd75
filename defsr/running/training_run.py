"""What BasicSR's training loop does not know of itself: where it is, and what came before."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from basicsr.utils import check_resume, get_root_logger
from basicsr.utils.dist_util import master_only
from basicsr.utils.registry import MODEL_REGISTRY
from torch.utils.tensorboard import SummaryWriter

from defsr.methods.build import method_class
from defsr.running.checkpoints import Checkpoints
from defsr.running.loaders import Loaders, build_loaders
from defsr.running.safe_training import SafeTraining, make_safe
from defsr.running.states import read_state
from defsr.utils import distributed
from defsr.utils.stopping import StopRequest

STATES = 'training_states'


def checkpoints_around(states: Path) -> Checkpoints:
    """Those whose training states lie in a folder; their networks in ``models`` beside it."""
    absolute = states.absolute()
    return Checkpoints(absolute.with_name('models') if absolute.name == STATES else states, states)


class TrainingRun:
    """One run of BasicSR's ``train_pipeline``, seen from the functions that it calls.

    The public methods stand in for BasicSR's functions of the same name, in the order in which
    the pipeline calls them.

    Args:
        stop: asked for after each iteration.
    """

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop
        self.state: dict | None = None
        self.warnings: list[str] = []
        self.loaders: Loaders | None = None
        self.tb_logger: SummaryWriter | None = None

    def load_resume_state(self, opt: dict) -> dict | None:
        """The state to go on from, or None; networks to load are set in ``opt['path']``.

        Raises:
            ValueError: for a state that is damaged, and if ``--auto_resume`` finds none whole.
            FileNotFoundError: if ``path:resume_state`` or the networks beside it do not exist.
        """
        path = distributed.from_main(self._find_state(opt) if distributed.is_main() else None)
        opt['path']['resume_state'] = path and str(path)
        if path is None:
            return None
        device = torch.device('cuda' if opt['num_gpu'] else 'cpu')
        self.state = read_state(path, device)
        ignored = opt['path'].get('ignore_resume_networks') or []
        frozen = method_class(opt).blocks_of(opt) if 'network_g' in opt else ()
        beside = getattr(MODEL_REGISTRY.get(opt['model_type']), 'frozen_blocks', ())
        opt['path']['ignore_resume_networks'] = [*ignored, *frozen, *beside]
        check_resume(opt, self.state['iter'])
        self._take_networks(opt, Path(path))
        if opt.get('seed_was_drawn') and 'defsr' in self.state:
            opt['manual_seed'] = self.state['defsr']['manual_seed']
        for name in ('models', 'training_states', 'visualization'):
            Path(opt['path'][name]).mkdir(parents=True, exist_ok=True)
        return self.state

    def _find_state(self, opt: dict) -> Path | None:
        checkpoints = Checkpoints(opt['path']['models'], opt['path']['training_states'])
        given = opt['path'].get('resume_state')
        if opt['auto_resume']:
            newest, self.warnings = checkpoints.newest()
            checkpoints.clear_temporaries()
            if newest is not None:
                checkpoints.adopt(newest)
                return checkpoints.state_path(newest)
            if self.warnings:
                raise ValueError(
                    f'--auto_resume: no checkpoint in {checkpoints.states} is whole. '
                    f'{self.warnings[0]} Remove them to start anew.'
                )
        if given is None:
            return None
        path = Path(given)
        if path.is_dir():
            return self._newest_in(path)
        if not path.is_file():
            raise FileNotFoundError(f'path:resume_state is {given}, which does not exist.')
        if path.stem.isdecimal():
            fault = checkpoints_around(path.parent).fault_of(int(path.stem))
            if fault:
                raise ValueError(
                    f'path:resume_state is {given}, which cannot be resumed: {fault}. '
                    'Name its folder to take the newest whole checkpoint in it.'
                )
        return path

    def _newest_in(self, folder: Path) -> Path:
        """Of a folder of training states, or of the experiment that has one."""
        states = folder / STATES if (folder / STATES).is_dir() else folder
        checkpoints = checkpoints_around(states)
        newest, self.warnings = checkpoints.newest()
        if newest is None:
            why = self.warnings[0] if self.warnings else 'There is none.'
            raise ValueError(
                f'path:resume_state is {folder}, a folder without a whole checkpoint. {why}'
            )
        return checkpoints.state_path(newest)

    def _take_networks(self, opt: dict, state_path: Path) -> None:
        """The networks that were saved with the state, wherever it lies; BasicSR looks here."""
        assert self.state is not None
        models, current_iter = checkpoints_around(state_path.parent).models, self.state['iter']
        for name in [key for key in opt if key.startswith('network_')]:
            if name in opt['path']['ignore_resume_networks']:
                continue
            label = name.removeprefix('network_')
            file = models / f'net_{label}_{current_iter}.pth'
            if not file.is_file():
                raise FileNotFoundError(
                    f'path:resume_state is {state_path}, but {file}, which was saved with it, is '
                    f'not there. Copy both, or start anew from weights (path:pretrain_{name}).'
                )
            opt['path'] |= {f'pretrain_{name}': str(file), f'param_key_{label}': None}

    @master_only
    def init_tb_logger(self, log_dir: str) -> SummaryWriter:
        """BasicSR's writer; what was logged after the resumed iteration is hidden."""
        purge_step = self.state['iter'] + 1 if self.state else None
        self.tb_logger = SummaryWriter(log_dir=log_dir, purge_step=purge_step)
        return self.tb_logger

    def create_train_val_dataloader(self, opt: dict, logger: logging.Logger) -> tuple:
        """BasicSR's five values; the data go on where the state was saved."""
        for text in self.warnings:
            logger.warning(text)
        self.loaders = loaders = build_loaders(opt, logger)
        total_iter = int(opt['train']['total_iter'])
        opt['train']['num_iter_per_pass'] = loaders.iters_per_pass
        if self.state:
            self._go_on(opt, self.state, loaders, logger)
        num_epochs = loaders.clock.num_epochs(total_iter)
        logger.info(
            f'Iterations: {loaders.clock.iters_per_epoch} per epoch of the loader, '
            f'{loaders.iters_per_pass} per pass over the data; {num_epochs} epochs for '
            f'{total_iter} iterations.'
        )
        return loaders.train, loaders.sampler, loaders.val, num_epochs, total_iter

    def _go_on(self, opt: dict, state: dict, loaders: Loaders, logger: logging.Logger) -> None:
        clock = loaders.clock
        known = state.get('defsr')
        if known is None:
            logger.warning("The state is BasicSR's own: its epoch is started again.")
            known = {'images_done': 0, 'manual_seed': opt['manual_seed']}
        if known['manual_seed'] != opt['manual_seed']:
            logger.warning(
                f'manual_seed is {opt["manual_seed"]}, but was {known["manual_seed"]}: '
                'the order of the data changes here.'
            )
        done = clock.go_on(state['epoch'], state['iter'], known['images_done'])
        if done != known['images_done']:
            logger.warning(
                f'A batch is {clock.batch_size} images now: of this epoch {done} are done, '
                f'{known["images_done"] - done} come again.'
            )
        loaders.sampler.start_at(state['epoch'], done)

    def build_model(self, opt: dict) -> SafeTraining:
        """BasicSR's or our model, made safe, with what it needs to know of the run."""
        model = build_safe_model(opt)
        assert self.loaders is not None  # BasicSR's loop asks for them first
        model.clock, model.val_loaders = self.loaders.clock, self.loaders.val
        model.stop, model.tb_logger = self.stop, self.tb_logger
        self.stop.listen()
        return model


def build_safe_model(opt: dict) -> SafeTraining:
    """The option file's model, with ``SafeTraining`` in front. Stands in for BasicSR's."""
    model = make_safe(MODEL_REGISTRY.get(opt['model_type']))(opt)
    get_root_logger().info(f'Model [{type(model).__name__}] is created.')
    return model
