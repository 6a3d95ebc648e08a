from occdistill.api import Clip as Clip
from occdistill.api import constant_velocity as constant_velocity
from occdistill.api import draw as draw
from occdistill.api import load_scene as load_scene
from occdistill.api import score as score
from occdistill.build.pretrained import Forecaster as Forecaster
from occdistill.errors import UserError as UserError

__version__: str
