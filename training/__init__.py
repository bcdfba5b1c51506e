"""An ONNX graph under autograd, in torch: what trains, differentiates or attacks a model runs it here."""
