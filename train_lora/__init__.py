"""Training of the AUFace models and of LoRA adapters."""
