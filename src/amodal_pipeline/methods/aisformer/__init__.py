"""AISFormer (Tran et al., BMVC 2022)."""
