"""`packs`: a folder with `millrace.yaml`, its code, its resources and what it needs, applied, upgraded and removed as one.

`manifest` reads what a pack is, `fetching` gets it from a folder or a git repository. `deciding` is pure: what to do about one
thing. `planning` compares a pack with what is there, `checklist` what it needs with what there is, `bringing` carries a plan out,
and `doing` and `telling` are for people, who find it by `commands`.
"""
