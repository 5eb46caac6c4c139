"""Words in names of images: for contrast agent, for its absence, and for segmentations."""

from __future__ import annotations

_AGENTS = ("gadovist", "gadavist", "dotarem", "clariscan", "magnevist", "prohance", "multihance", "omniscan",
           "elucirem", "vueway", "gadobutrol", "gadoterate", "gadoteridol", "gadodiamide", "gadobenate")  # fmt: skip
CONTRAST_WORDS = (
    *("c", "ce", "gd", "gad", "gado", "gadolinium", "post", "contrast", "postcontrast", "post_contrast", "enhanced"),
    *("postgd", "postgad", "post_gd", "post_gad", "gd_dtpa", "gddtpa", "enh", "post_c"),
    *("km", "kontrast", "kontrastmittel", "mdc", "mezzo_di_contrasto", "contraste", "con_contraste", "avec_contraste"),
    *("with_contrast", "with_gd", "mit_km", "contrasto", "civ", "inj", *_AGENTS),
)
LEADING_CONTRAST_WORDS = tuple(word for word in CONTRAST_WORDS if word not in ("c", "enh", "inj", "civ"))
"""Those that also stand before a modality, e.g. of ``post_T1``."""

NATIVE_WORDS = ("pre", "native", "nativ", "precontrast", "pre_contrast", "non_contrast", "noncontrast", "nc", "pregd",
                 "pregad", "pre_gd", "pre_gad", "ohne_km", "sans_contraste", "senza_mdc", "sin_contraste")  # fmt: skip

SEGMENTATION_WORDS = ("gt", "gtv", "label", "labels", "mask", "masks", "roi", "seg", "segm", "segmentation",
                      "segmentations", "brainmask", "tumor", "tumour", "lesion", "lesions", "ce_mask")  # fmt: skip
"""Last words of files that hold a segmentation or a mask; BraTS 2020 has a ``_Segm``, 2024 a ``_gtv``."""
