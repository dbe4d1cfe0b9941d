"""Task -> prompts: read from a source, curated, split."""

from refine_rl.prompts.curate import CurationReport
from refine_rl.prompts.sources import load_all_prompts, load_prompts

__all__ = ["CurationReport", "load_all_prompts", "load_prompts"]
