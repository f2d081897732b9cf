"""Config files: plain functions `get_config(arg)`. Fields they do not set have their schema's defaults."""
