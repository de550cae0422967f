"""Operations fused for a GPU, each with a plain form that does the same anywhere."""
