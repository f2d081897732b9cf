"""Config files: plain functions `get_config(arg)`; every leaf not set here has its dataclass's default."""
