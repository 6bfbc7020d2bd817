"""ComfyUI nodes of AUFace."""
