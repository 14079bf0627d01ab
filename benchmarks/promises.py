"""Run the tests that are marked `faults` and keep their outcomes in results/promises.json, README's table of promises.

python benchmarks/promises.py          # what `make test` runs
python benchmarks/promises.py --all    # twenty kills a run, ten thousand mutations
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).parent

# Each promise, and the tests that hold it. A test that belongs to none, or a name without a test, is an error here.
PROMISES = {
    "Killed at random moments, also in a save: the same command ends with the same bits": ["killed_at_any_moment"],
    "SIGTERM in training, a save, evaluation or translation: a checkpoint, exit 143, the same bits in the end": [
        "stopped_by_sigterm",
        "a_stopped_run_resumes_bit_identically",
        "stopped_while_the_result_is_saved",
        "a_stopped_evaluation_keeps_no_half_classifier",
    ],
    "A cut or flipped checkpoint is found and named, the one before it used; with none left, exit 5": [
        "200_damages_of_checkpoints_are_passed_over_and_named",
        "200_damages_of_a_file_are_all_found",
        "a_damaged_checkpoint_is_passed_over",
    ],
    "A full disk at any save: the checkpoint before it stays, nothing half-written does, exit 5": [
        "a_full_disk_at_every_save",
        "a_save_that_does_not_fit",
        "the_need_is_compared_before_the_run",
    ],
    "NaN or infinity in images, loss, gradient or generator: no weight moves, three retries, exit 4": [
        "nan_and_infinity_touch_no_weight",
    ],
    "A good checkpoint is never rotated away by bad ones": [
        "a_bad_weight_reaches_no_checkpoint",
        "a_good_checkpoint_is_not_rotated_away_by_bad_ones",
    ],
    "Collapse of codes, analogies or samples is said in one line": [
        "a_collapse_is_said",
        "copies_of_one_image_are_counted_and_said",
    ],
    "One corrupt picture in twenty is skipped and listed; over one in ten is exit 3": ["one_file_in_twenty_is_corrupt"],
    "Bombs (400 megapixels, texts, profiles, strips) are refused or harmless, under 100 MB": [
        "bombs_are_refused_before_they_unpack",
    ],
    "Every mode, depth, orientation and profile of a picture reads as documented": [
        "every_mode_reads_as_the_same_ramp",
        "every_exif_orientation_is_applied",
        "transparency_is_put_on_white",
        "a_colour_profile_is_ignored",
    ],
    "A hostile model directory (pickles, links, paths, giant headers, nested JSON) is refused": [
        "a_header_of_a_terabyte",
        "nested_json_does_not_end_the_process",
        "a_manifest_that_points_out_of_the_directory",
        "links_and_paths_out_of_the_directory_are_refused",
        "a_pickle_in_the_place_of_a_file",
    ],
    "A hostile generator file runs nothing; a pickle only with `--trust-pickle`, announced": [
        "a_pickle_is_refused_and_nothing_of_it_is_executed",
        "a_program_that_does_more_than_compute_is_refused",
        "a_script_that_does_more_than_compute_is_refused",
        "a_trusted_pickle_is_announced_and_checked_like_any_generator",
        "what_is_no_module_is_read_as_plain_data_and_said",
        "a_saved_mapping_never_makes_namap_unpickle",
    ],
    "Another configuration or other data in a run's directory: exit 2, and the difference": [
        "changed_data_or_configuration_is_refused_and_printed",
        "a_damaged_record_of_a_run_is_one_line",
        "a_damaged_log_is_one_line",
    ],
    "A second process in a directory: exit 5, and who holds it; the lock of a dead one is taken over": [
        "a_second_run_is_refused_and_the_lock_of_a_dead_one_taken_over",
    ],
    "Interrupted translation leaves whole files, and finishes when run again": [
        "interrupted_translation_leaves_whole_files_and_finishes_when_run_again",
    ],
    "Ten thousand mutated pictures, model directories, configurations: nothing but one-line errors": [
        "mutated_pictures_never_raise_anything_else",
        "mutated_model_directories",
        "mutated_configurations_with_a_fitting_manifest",
        "any_manifest_any_configuration_any_setting",
    ],
    "No network is used, and no further process is started": ["no_further_process_and_no_connection"],
}


def outcomes(marks: str) -> tuple[dict[str, list[bool]], int]:
    """Whether each case of each test held (a skipped one did not), and pytest's exit code."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "outcome.xml"
        command = [sys.executable, "-m", "pytest", "tests", "-n", "0", "-m", marks, "--timeout=7200"]
        status = subprocess.run([*command, f"--junitxml={report}"], cwd=HERE.parent, check=False).returncode
        cases = list(ElementTree.parse(report).iter("testcase"))
    found: dict[str, list[bool]] = defaultdict(list)
    for case in cases:
        held = not any(child.tag in ("failure", "error", "skipped") for child in case)
        found[case.attrib["name"].partition("[")[0].removeprefix("test_")].append(held)
    return found, status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true")
    everything = parser.parse_args().all
    found, status = outcomes("faults" if everything else "faults and not long")
    told = {name for names in PROMISES.values() for name in names}
    if told != found.keys():
        sys.exit(f"tests and promises differ: {', '.join(sorted(told ^ found.keys()))}")
    rows = {promise: [held for name in names for held in found[name]] for promise, names in PROMISES.items()}
    record = {"all": everything, "outcomes": {p: {"cases": len(r), "held": sum(r)} for p, r in rows.items()}}
    (HERE / "results" / "promises.json").write_text(json.dumps(record, indent=2) + "\n")
    sys.exit(status)


if __name__ == "__main__":
    main()
