"""What the SD WebUI lists: samplers, schedulers, upscalers and the options that clients read or set.

Names and defaults as AUTOMATIC1111 1.10.1 answers them; sketch draws the same with every sampler.
"""

from __future__ import annotations

from typing import Any

# Name, alias, scheduler that the sampler brings along (or none).
_SAMPLERS = (
    ("DPM++ 2M", "k_dpmpp_2m", "karras"), ("DPM++ SDE", "k_dpmpp_sde", "karras"),
    ("DPM++ 2M SDE", "k_dpmpp_2m_sde", "exponential"), ("DPM++ 2M SDE Heun", "k_dpmpp_2m_sde_heun",
    "exponential"),
    ("DPM++ 2S a", "k_dpmpp_2s_a", "karras"), ("DPM++ 3M SDE", "k_dpmpp_3m_sde", "exponential"),
    ("Euler a", "k_euler_a", ""), ("Euler", "k_euler", ""), ("LMS", "k_lms", ""), ("Heun", "k_heun", ""),
    ("DPM2", "k_dpm_2", "karras"), ("DPM2 a", "k_dpm_2_a", "karras"), ("DPM fast", "k_dpm_fast", ""),
    ("DPM adaptive", "k_dpm_ad", ""), ("Restart", "restart", "karras"), ("DDIM", "ddim", ""),
    ("DDIM CFG++", "ddim_cfgpp", ""), ("PLMS", "plms", ""), ("UniPC", "unipc", ""), ("LCM", "k_lcm", ""),
)  # fmt: skip
_SCHEDULERS = (
    "Automatic", "Uniform", "Karras", "Exponential", "Polyexponential", "SGM Uniform", "KL Optimal",
    "Align Your Steps", "Simple", "Normal", "DDIM", "Beta",
)  # fmt: skip
UPSCALERS = (
    "None", "Lanczos", "Nearest", "DAT x2", "DAT x3", "DAT x4", "ESRGAN_4x", "LDSR", "R-ESRGAN 4x+",
    "R-ESRGAN 4x+ Anime6B", "ScuNET GAN", "ScuNET PSNR", "SwinIR 4x",
)  # fmt: skip
LATENT_UPSCALERS = (
    "Latent", "Latent (antialiased)", "Latent (bicubic)", "Latent (bicubic antialiased)", "Latent (nearest)",
    "Latent (nearest-exact)",
)  # fmt: skip


def samplers() -> list[dict[str, Any]]:
    """Return the answer of GET samplers."""
    return [
        {"name": name, "aliases": [alias], "options": {"scheduler": scheduler} if scheduler else {}}
        for name, alias, scheduler in _SAMPLERS
    ]


def sampler(name: str) -> tuple[str, str]:
    """Return a sampler's own name and schedule label; DPM++ 2M for one that nobody knows, as A1111 does."""
    wanted = name.lower()
    for own, alias, scheduler in _SAMPLERS:
        if wanted in (own.lower(), alias):
            return own, scheduler.capitalize() or "Automatic"
    return "DPM++ 2M", "Karras"


def schedule_label(name: str | None) -> str:
    """Return the label of a scheduler that was asked for by label or by name, or nothing."""
    wanted = (name or "").lower().replace("_", " ")
    return next((label for label in _SCHEDULERS if label.lower() == wanted), "")


def schedulers() -> list[dict[str, Any]]:
    """Return the answer of GET schedulers."""
    rho = {"Karras": 7.0, "Polyexponential": 1.0}
    inner = ("Uniform", "SGM Uniform", "Simple", "Normal", "DDIM", "Beta")
    return [
        {"name": label.lower().replace(" ", "_"), "label": label, "aliases": None,
         "default_rho": rho.get(label, -1.0), "need_inner_model": label in inner}
        for label in _SCHEDULERS
    ]  # fmt: skip


def upscalers(more: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the answer of GET upscalers; `more` are file names of the models folder."""
    names = [*UPSCALERS, *(name.rsplit("/", 1)[-1].rsplit(".", 1)[0] for name in more)]
    return [
        {"name": name, "model_name": None, "model_path": None, "model_url": None, "scale": 4.0}
        for name in dict.fromkeys(names)
    ]


OPTIONS: dict[str, Any] = {
    "samples_save": True, "samples_format": "png", "samples_filename_pattern": "",
    "save_images_add_number": True,
    "grid_save": True, "grid_format": "png", "grid_only_if_multiple": True, "n_rows": -1, "jpeg_quality": 80,
    "webp_lossless": False, "save_incomplete_images": False, "face_restoration": False,
    "face_restoration_model": "CodeFormer", "code_former_weight": 0.5, "upscaler_for_img2img": None,
    "api_enable_requests": False, "api_forbid_local_requests": True, "sd_model_checkpoint": None,
    "sd_checkpoint_hash": "", "sd_checkpoints_limit": 1, "sd_checkpoint_cache": 0, "sd_unet": "Automatic",
    "sd_vae": "Automatic", "sd_vae_checkpoint_cache": 0, "sd_vae_overrides_per_model_preferences": True,
    "sd_vae_encode_method": "Full", "sd_vae_decode_method": "Full", "emphasis": "Original",
    "enable_batch_seeds": True, "comma_padding_backtrack": 20, "CLIP_stop_at_last_layers": 1,
    "upcast_attn": False, "randn_source": "GPU", "tiling": False, "inpainting_mask_weight": 1.0,
    "initial_noise_multiplier": 1.0, "img2img_color_correction": False, "img2img_fix_steps": False,
    "img2img_background_color": "#ffffff", "return_mask": False, "return_mask_composite": False,
    "cross_attention_optimization": "Automatic", "s_min_uncond": 0.0, "token_merging_ratio": 0.0,
    "token_merging_ratio_img2img": 0.0, "token_merging_ratio_hr": 0.0, "fp8_storage": "Disable",
    "cache_fp16_weight": False, "auto_backcompat": True, "return_grid": True, "do_not_show_images": False,
    "localization": "None", "enable_pnginfo": True, "save_txt": False, "add_model_name_to_info": True,
    "add_model_hash_to_info": True, "add_version_to_infotext": True, "live_previews_enable": True,
    "live_previews_image_format": "png", "show_progress_every_n_steps": 10, "show_progress_type": "Approx NN",
    "live_preview_refresh_period": 1000, "hide_samplers": [], "eta_ddim": 0.0, "eta_ancestral": 1.0,
    "s_churn": 0.0, "s_tmin": 0.0, "s_tmax": 0.0, "s_noise": 1.0, "sigma_min": 0.0, "sigma_max": 0.0,
    "rho": 0.0,
    "eta_noise_seed_delta": 0, "sd_noise_schedule": "Default", "sd_lora": "None", "sd_hypernetwork": "None",
    "lora_preferred_name": "Alias from file", "extra_networks_default_multiplier": 1.0, "ESRGAN_tile": 192,
    "ESRGAN_tile_overlap": 8, "DAT_tile": 192, "DAT_tile_overlap": 8, "control_net_unit_count": 3,
}  # fmt: skip
