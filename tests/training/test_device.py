from amodal_pipeline.methods.training_config import InferenceConfig, TrainingConfig
from amodal_pipeline.training.device import wants_bfloat16


def test_a_gpu_infers_in_float32_and_trains_in_bfloat16_unless_told_otherwise():
    assert not wants_bfloat16(InferenceConfig().precision, "cuda")
    assert wants_bfloat16(InferenceConfig(precision="auto").precision, "cuda:0")
    assert wants_bfloat16(TrainingConfig().precision, "cuda")
    assert not wants_bfloat16(TrainingConfig().precision, "cpu")
