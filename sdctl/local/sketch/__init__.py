"""The built-in runtime: draws a deterministic picture and speaks the SD WebUI or the ComfyUI protocol.

It is not Stable Diffusion and every picture's metadata says so. It reads no model, needs no GPU, fetches
nothing, and answers as AUTOMATIC1111 1.10.1 or ComfyUI 0.33 do, so that all other parts run unchanged.
"""
