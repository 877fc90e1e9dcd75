from defsr.diffusion.operators import AveragePoolDownsample, BicubicDownsample, LinearOperator
from defsr.diffusion.options import SamplingOptions
from defsr.diffusion.ranges import from_signed, sigma_to_signed, to_signed
from defsr.diffusion.sampler import ddnm_sample
from defsr.diffusion.schedule import NoiseSchedule

__all__ = [
    'AveragePoolDownsample',
    'BicubicDownsample',
    'LinearOperator',
    'NoiseSchedule',
    'SamplingOptions',
    'ddnm_sample',
    'from_signed',
    'sigma_to_signed',
    'to_signed',
]
