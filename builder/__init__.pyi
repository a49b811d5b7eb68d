from builder.canvas.letterbox import letterbox_frame as letterbox_frame
from builder.canvas.letterbox import unletterbox_frame as unletterbox_frame
from builder.dataset.opening import open_dataset as open_dataset
