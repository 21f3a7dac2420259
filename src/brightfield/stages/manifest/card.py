"""What others read first: the dataset card for people (Hugging Face front matter) and the Croissant file for search engines and loaders.

Both say only what the tables say, hold no date and no host, and so come out the same wherever they are built.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import brightfield
from brightfield.config.options import Config, SourceKind, TubeShape
from brightfield.core.codes import LABEL_NAMES, SIDES, Label, Reason, Split
from brightfield.core.errors import TableError
from brightfield.core.files import write_text
from brightfield.core.layout import CARD_FILE, CROISSANT_FILE, DATA_DIR, IMAGES_DIR, LABELS_DIR, SKELETONS_DIR, hub_file
from brightfield.core.schema import MANIFEST, PATCHES, TABLES, Table
from brightfield.core.tables import read_table
from brightfield.core.text import markdown, markdown_code
from brightfield.core.urls import web_link
from brightfield.sampling.mix import delivered
from brightfield.splitting.proof import prove
from brightfield.stages.manifest.hub import HUB_TABLES
from brightfield.stages.manifest.table import hash_and_size, terms

if TYPE_CHECKING:
    import pandas as pd

NAME = "brightfield-neurons"
PRETTY_NAME = "Brightfield neurons: stacks, skeletons and voxel labels"
DESCRIPTION = (
    "Brightfield image stacks of biocytin-filled neurons with the manual reconstructions of the Allen Cell Types Database (or your own), "
    "rasterized into voxel labels that are aligned with the images, checked against the stain, and split without leakage."
)
KEYWORDS = ("neuroscience", "neuron reconstruction", "neuron tracing", "brightfield microscopy", "segmentation", "OME-Zarr", "SWC")

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_TYPES = {"string": "sc:Text", "bool": "sc:Boolean", "int32": "cr:Int32", "int64": "cr:Int64", "double": "cr:Float64"}


def write_card(root: Path, config: Config) -> Path:
    """Write `schema.CARD_FILE` from the tables of the dataset."""
    return write_text(root / CARD_FILE, card(root, config))


def write_croissant(root: Path, config: Config) -> Path:
    """Write `schema.CROISSANT_FILE` from the tables of the dataset; the last file of a build, as it holds the tables' hashes."""
    return write_text(root / CROISSANT_FILE, croissant_text(root, config))


def croissant_text(root: Path, config: Config) -> str:
    """The text of the Croissant file."""
    return json.dumps(croissant(root, config), indent=2, ensure_ascii=False) + "\n"


# ------------------------------------------------------------------------------------------------------------------ licence


def license_answers(config: Config) -> dict[str, str]:
    """The four questions that every user of a dataset has, answered for the configured source."""
    known = terms(config)
    if config.source.kind is SourceKind.folder:
        return {
            "Which licence?": known.license,
            "Commercial use?": "As that licence says; the pipeline adds no restriction.",
            "May I redistribute it?": "As that licence says; every row of the manifest carries it.",
            "May I publish models trained on it?": "As that licence says.",
        }
    return {
        "Which licence?": (
            f"{known.license}: {known.license_url}. It is not an open-source or Creative Commons licence. The code is BSD-3-Clause."
        ),
        "Commercial use?": "No. The terms allow research and other non-commercial use; for anything else ask the Allen Institute.",
        "May I redistribute it?": (
            "Not as your own, and not without these terms. This project publishes code, ids and hashes; images and reconstructions are "
            "fetched from their source by whoever builds the dataset. Inside a team that has accepted the terms, the remote shares them."
        ),
        "May I publish models trained on it?": (
            "The terms do not name models. Take them as derived from the data: share them for non-commercial use, cite the source, and "
            "ask the Allen Institute before any commercial use."
        ),
    }


# --------------------------------------------------------------------------------------------------------------------- card


def card(root: Path, config: Config) -> str:
    """The dataset card in Markdown with the YAML front matter of the Hugging Face Hub."""
    manifest, patches = read_table(MANIFEST, root), read_table(PATCHES, root, columns=["kind", "split", "weight"])
    taken = manifest[manifest["split"] != Split.EXCLUDED]
    sections = [
        _front_matter(config, len(patches)),
        f"# {PRETTY_NAME}\n\n{DESCRIPTION}",
        f"## What is in it\n\n{_composition(manifest, taken, config)}",
        f"## Splits\n\n{_splits(taken, config)}",
        f"## Labels\n\n{_codes(config)}",
        f"## Patches\n\n{_patches(patches, config)}",
        f"## Use it\n\n{_usage()}",
        "## Terms\n\n" + "\n".join(f"- **{question}** {markdown(answer)}" for question, answer in license_answers(config).items()),
        f"## Cite\n\n{markdown(terms(config).citation)}",
        "## How it was made\n\n"
        + "\n".join(f"- **{name}**: {markdown(text)}" for name, text in _responsible(manifest, taken, config).items()),
        f"## Provenance\n\n{_provenance(manifest)}",
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(config: Config, n_patches: int) -> str:
    import yaml

    known = terms(config)
    fields = {
        "pretty_name": PRETTY_NAME,
        "license": "other",
        "license_name": known.license,
        **({"license_link": known.license_url} if web_link(known.license_url) else {}),
        "task_categories": ["image-segmentation"],
        "tags": [keyword.lower().replace(" ", "-") for keyword in KEYWORDS],
        "size_categories": [next((name for limit, name in _SIZES if n_patches < limit), "n>1M")],
        "configs": [
            {
                "config_name": table.name,
                "data_files": [
                    {"split": side.value, "path": hub_file(table.name, side).relative_to(DATA_DIR).as_posix()} for side in SIDES
                ],
                "default": table is MANIFEST,
            }
            for table in HUB_TABLES
        ],
    }
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=1000)}---"


def _composition(manifest: pd.DataFrame, taken: pd.DataFrame, config: Config) -> str:
    rows: list[tuple[Any, ...]] = [
        ("cells taken", len(taken)),
        ("cells listed but excluded, each with its reason", len(manifest) - len(taken)),
    ]
    rows += [
        (f"cells, {kind}", int(n)) for kind, n in taken["reconstruction_type"].fillna("type unknown").value_counts().sort_index().items()
    ]
    rows += [("donors", int(taken["donor_id"].nunique())), ("voxels downloaded", int(taken["voxels_fetched"].sum()))]
    rows += [
        (f"path length, {name} (mm)", f"{taken[f'path_{name}_um'].sum() / 1000:.1f}") for name in LABEL_NAMES.values() if name != "soma"
    ]
    rows += [
        ("source", f"{config.source.kind}"),
        ("downsampling", f"2^{config.image.level} in y and x, every {config.image.z_step}. plane"),
    ]
    return _markdown(("", ""), rows)


def _splits(taken: pd.DataFrame, config: Config) -> str:
    proof = prove(taken, config.split)
    rows = [(r.split, r.cells, r.donors, r.full, f"{r.path_um / 1000:.1f}", int(r.voxels)) for r in _rows(proof.counts)]
    table = _markdown(("side", "cells", "donors", "full reconstructions", "path length (mm)", "labelled voxels"), rows)
    leaks = "no donor, image series or skeleton is on two sides" if not proof.leaks else f"{len(proof.leaks)} LEAKS"
    worst = f"; the worst of {len(proof.strata)} strata is {proof.max_deviation_points:.1f} points off" if len(proof.strata) else ""
    return f"{table}\n\nStrategy `{config.split.strategy}`: {leaks}{worst}. Cells that are added later move none of these."


def _patches(patches: pd.DataFrame, config: Config) -> str:
    frame = delivered(patches, config.patches)
    sides = [side.value for side in SIDES]
    rows = [
        (r["kind"].replace("_", " "), _points(r["asked"]), r["patches"], _points(r["share"]), *(_points(r[side]) for side in sides))
        for r in frame.to_dict("records")
    ]
    table = _markdown(("kind", "asked, %", "patches", "of all patches, %", *(f"{side}, % by weight" for side in sides)), rows)
    return (
        f"{table}\n\nA cell gives at most {config.patches.per_cell} patches, and none of a kind that it does not have: no axon where its "
        "axon is unknown, and no hard negatives there unless what is stained and not traced is marked. The column `weight` makes up for "
        "it: drawn by weight, each side has the mix that was asked for. Four columns, such as absent\\_axon, say of each patch whether a "
        "voxel not labelled so is of no such class (absent) or may be (unknown)."
    )


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _rows(frame: pd.DataFrame) -> Iterator[Any]:
    """`itertuples`, whose values pandas-stubs takes for anything."""
    yield from frame.itertuples()


def _codes(config: Config) -> str:
    rows = [(int(code), code.name.lower().replace("_", " ")) for code in Label]
    bits = ", ".join(f"{int(bit)} {bit.name.lower().replace('_', ' ')}" for bit in Reason if bit.name)
    unknown = "Unknown is not absent: leave it out of the loss (`ignore_index=255`). The parallel `reason` array says why, in bits:"
    return f"{_markdown(('code', 'class'), rows)}\n\n{unknown} {bits}. {_LOOKED_AT[config.labels.evidence]}{_FITTED[config.labels.tube]}"


_LOOKED_AT = {
    True: "The image was looked at: stain that nobody traced, misregistered stretches and what is doubtful of the soma are unknown.",
    False: (
        "The image was not looked at (`labels.evidence=false`): stain that nobody traced reads background, so cells whose axon is unknown "
        "are no negatives for axon."
    ),
}


_FITTED = {
    TubeShape.traced: "",
    TubeShape.fitted: (
        " Tubes were moved to the ridge of stain beside the trace, voxel by voxel and without making or losing a piece or a loop "
        "(`labels.tube=fitted`); what was traced and is not in them is unknown. Skeletons stay as traced."
    ),
}


def _usage() -> str:
    return (
        "```python\nimport brightfield\n\ntable = brightfield.manifest()  # a pandas frame, one row per cell, excluded ones too\n"
        'for cell in brightfield.cells("train"):  # those of a side; without one, all that are not excluded\n'
        "    print(cell.specimen_id, cell.image.shape, cell.labels.shape)  # lazy arrays\n```\n\n"
        '```python\nfrom datasets import load_dataset\n\npatches = load_dataset("data", "patches")["train"]  # or "manifest"\n```\n\n'
        "```sql\n-- DuckDB\nSELECT split, count(*) AS cells, sum(path_axon_um) / 1000 AS axon_mm\n"
        f"FROM '{MANIFEST.path.as_posix()}' GROUP BY split ORDER BY split;\n```"
    )


_DOUBTS = {
    True: "rim, cut ends, untraced stain, bad planes, misregistration, the soma's outline",
    False: "rim, cut ends, where tracing stopped, bad planes",
}


def _provenance(manifest: pd.DataFrame) -> str:
    columns = ("source_url", "snapshot_sha256", "config_sha256", "code_version")
    return _markdown(("", ""), [(name, value) for name in columns for value in sorted(set(manifest[name]))], markdown_code)


def _markdown(header: tuple[str, ...], rows: list[tuple[Any, ...]], show: Callable[[object], str] = markdown) -> str:
    lines = [header, tuple("---" for _ in header), *([markdown(name), *map(show, values)] for name, *values in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# ---------------------------------------------------------------------------------------------------------------- responsible


def _responsible(manifest: pd.DataFrame, taken: pd.DataFrame, config: Config) -> dict[str, str]:
    """The Croissant RAI vocabulary, filled from facts: property -> text."""
    types = ", ".join(f"{n} {kind}" for kind, n in taken["reconstruction_type"].fillna("unknown").value_counts().sort_index().items())
    dendrites = ", ".join(f"{n} {kind}" for kind, n in taken["dendrite_type"].fillna("unknown").value_counts().sort_index().items())
    species = ", ".join(f"{n} {kind}" for kind, n in taken["species"].value_counts().sort_index().items())
    missing = int(manifest["n_tiles_missing"].fillna(0).sum())
    return {
        "dataCollection": "Neurons were filled with biocytin during patch-clamp recording, stained, and imaged as brightfield z-stacks.",
        "dataCollectionType": "Experiments; direct measurement" if config.source.kind is not SourceKind.demo else "Simulation; experiments",
        "dataCollectionMissingData": (
            f"{missing} of {int(manifest['n_tiles'].fillna(0).sum())} tiles could not be had; they, and all that was not asked for, are "
            "unknown (255) in the labels, with the reason in a parallel mask."
        ),
        "dataPreprocessingProtocol": "Images are stored without loss as the source gives them: averaged by 2^level, planes picked.",
        "dataAnnotationProtocol": (
            "Skeletons were traced by hand; voxel labels are computed from them as the union of round cones, connected, in micrometres. "
            f"Where a label could be wrong ({_DOUBTS[config.labels.evidence]}) it says unknown."
        ),
        "annotationsPerItem": "1",
        "dataBiases": f"Cells by species: {species}. By reconstruction: {types}. By dendrite type: {dendrites}. The types are confounded.",
        "dataLimitations": (
            "Axon radii are placeholders of one pixel. The axon of a dendrite-only cell was not traced and is unknown, not absent. "
            "Excluded cells stay in the manifest with a reason."
        ),
        "dataUseCases": "Training and benchmarking of neuron segmentation and tracing in brightfield stacks.",
        "dataReleaseMaintenancePlan": (
            "Versions are git tags: PATCH same data, MINOR records or columns added, MAJOR records edited, removed or moved across splits."
        ),
        "personalSensitiveInformation": "None beyond what the source publishes; human cells are named by the source's anonymous donor ids.",
    }


# ----------------------------------------------------------------------------------------------------------------- Croissant


def croissant(root: Path, config: Config) -> dict[str, Any]:
    """The Croissant 1.1 description (mlcommons.org/croissant): files, record sets of manifest and patches, responsible-AI fields."""
    manifest = read_table(MANIFEST, root)
    known = terms(config)
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": NAME,
        "description": DESCRIPTION,
        "url": "https://github.com/brightfield/brightfield",
        "license": known.license_url or known.license,
        "citeAs": known.citation,
        "version": brightfield.__version__,
        "keywords": list(KEYWORDS),
        "creator": {"@type": "sc:Organization", "name": "The brightfield authors"},
        **{f"rai:{name}": text for name, text in _responsible(manifest, manifest[manifest["split"] != Split.EXCLUDED], config).items()},
        "distribution": [*(_file(root, table) for table in TABLES), *map(_file_set, _FILE_SETS)],
        "recordSet": [_record_set(MANIFEST), _record_set(PATCHES)],
    }


_FILE_SETS = (
    ("image-stores", IMAGES_DIR, "*.zarr/**", "application/x-zarr", "OME-Zarr 0.5 of the images, one store per cell"),
    ("label-stores", LABELS_DIR, "*.zarr/**", "application/x-zarr", "OME-Zarr 0.5 of the labels, one store per cell"),
    ("skeletons", SKELETONS_DIR, "*.swc", "text/plain", "Reconstructions, the source's bytes, one SWC per cell"),
)


def _file(root: Path, table: Table) -> dict[str, Any]:
    if not (root / table.path).is_file():
        raise TableError(f"the {table.name} table is not there, and a Croissant file names all of them", path=root / table.path)
    digest, size = hash_and_size(root / table.path)
    return {
        "@type": "cr:FileObject",
        "@id": f"{table.name}.parquet",
        "name": f"{table.name}.parquet",
        "description": table.description,
        "contentUrl": table.path.relative_to(DATA_DIR).as_posix(),
        "contentSize": f"{size} B",
        "encodingFormat": "application/x-parquet",
        "sha256": digest,
    }


def _file_set(what: tuple[str, Path, str, str, str]) -> dict[str, Any]:
    name, folder, pattern, encoding, description = what
    includes = f"{folder.relative_to(DATA_DIR).as_posix()}/{pattern}"
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "description": description,
        "encodingFormat": encoding,
        "includes": includes,
    }


def _record_set(table: Table) -> dict[str, Any]:
    fields = []
    for column in table.columns:
        unit = f" ({column.unit})" if column.unit not in ("", "1") else ""
        field: dict[str, Any] = {
            "@type": "cr:Field",
            "@id": f"{table.name}/{column.name}",
            "name": column.name,
            "description": f"{column.description}{unit}",
            "dataType": _TYPES[str(column.type)],
            "source": {"fileObject": {"@id": f"{table.name}.parquet"}, "extract": {"column": column.name}},
        }
        if table is not MANIFEST and column.name == "specimen_id":
            field["references"] = {"field": {"@id": f"{MANIFEST.name}/specimen_id"}}
        fields.append(field)
    key = [{"@id": f"{table.name}/{name}"} for name in table.key]
    return {
        "@type": "cr:RecordSet",
        "@id": table.name,
        "name": table.name,
        "description": table.description,
        "key": key if len(key) > 1 else key[0],
        "field": fields,
    }


_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{name: f"cr:{name}" for name in (
        "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "excludes", "extract", "field", "fileObject", "fileProperty",
        "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet",
        "references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
    )},
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}  # fmt: skip
"""The JSON-LD context of the Croissant 1.1 specification."""
