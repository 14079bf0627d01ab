"""Run the tests that are marked `faults` and keep their outcomes in results/promises.json, README's table of promises.

python benchmarks/promises.py              # what `make test` runs
python benchmarks/promises.py --all        # twenty kills a run, ten thousand mutations: an hour and more of a core
python benchmarks/promises.py --all soak kill    # only the promises that speak of these; the others stay as they are
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
RESULT = HERE / "results" / "promises.json"

# Each promise, and the tests that hold it. A test that belongs to none, or a name without a test, is an error here.
PROMISES = {
    "A run that is killed at any moment, also in a save, goes on with the same command to the same bits": [
        "killed_at_any_moment",
        "killed_before_any_change_of_its_directory",
    ],
    "SIGTERM in training, a save, evaluation or translation: a checkpoint, exit 143, and the same bits in the end": [
        "stopped_by_sigterm",
        "a_stopped_run_resumes_bit_identically",
        "stopped_while_the_result_is_saved",
        "a_stopped_evaluation_keeps_no_half_classifier",
    ],
    "A checkpoint that is cut or has a flipped bit is found and named, the one before it used; none left: exit 5": [
        "200_damages_of_checkpoints_are_passed_over_and_named",
        "200_damages_of_a_file_are_all_found",
        "a_damaged_checkpoint_is_passed_over",
        "a_checkpoint_without_its_manifest_is_passed_over_and_replaced",
    ],
    "A disk that is full at any save: the checkpoint before it stays, nothing half-written does, exit 5; "
    "what a run needs is compared with what is free before it starts": [
        "a_full_disk_at_every_save",
        "a_save_that_does_not_fit",
        "the_need_is_compared_before_the_run",
    ],
    "NaN or infinity in images, loss, gradient or generator moves no weight: back to the last checkpoint at half the "
    "rate, three times, then exit 4 with step and tensor": ["nan_and_infinity_touch_no_weight"],
    "A good checkpoint is never rotated away by bad ones": [
        "a_bad_weight_reaches_no_checkpoint",
        "a_good_checkpoint_is_not_rotated_away_by_bad_ones",
    ],
    "A collapse of the codes, the analogies or a generator's samples is logged, and said in one line": [
        "a_collapse_is_said",
        "copies_of_one_image_are_counted_and_said",
    ],
    "Corrupt pictures are skipped and listed, the rest translated; more than one in ten: exit 3": [
        "one_file_in_twenty_is_corrupt",
    ],
    "A bomb (400 megapixels in a header, a text, a profile, a picture or an array that unpacks to a thousand times its "
    "file) is refused; memory grows by less than 100 MB": [
        "bombs_are_refused_before_they_unpack",
        "a_header_of_400_megapixels",
        "a_large_picture_of_nothing_is_no_picture",
        "an_array_that_unpacks_to_a_thousand_times_its_file",
        "zip_bombs_are_refused",
    ],
    "Every mode, depth, orientation, profile and frame of a picture is read as documented; 16 bits are scaled, never "
    "clipped": [
        "every_mode_reads_as_the_same_ramp",
        "every_exif_orientation_is_applied",
        "the_orientation_of_photographs_is_applied",
        "transparency_is_put_on_white",
        "transparency_of_a_palette_and_of_a_key",
        "a_colour_profile_is_ignored",
        "16_bits_are_scaled_and_rounded_and_never_clipped",
        "colours_of_16_bits_and_of_photographs",
        "large_photographs_are_read",
        "frames_and_formats_that_are_closed",
    ],
    "A hostile model or checkpoint (pickles, links, paths, giant headers, odd tensors, nested JSON) is refused; "
    "nothing outside of it is read": [
        "a_header_of_a_terabyte",
        "odd_types_and_shapes_of_tensors",
        "nested_json_does_not_end_the_process",
        "a_manifest_that_points_out_of_the_directory",
        "links_and_paths_out_of_the_directory_are_refused",
        "nothing_outside_of_a_model_is_read",
        "a_pickle_in_the_place_of_a_file",
        "a_checkpoint_of_a_stranger_is_one_line",
    ],
    "A hostile generator file runs nothing; a pickle is loaded only with `--trust-pickle`, and announced": [
        "a_pickle_is_refused_and_nothing_of_it_is_executed",
        "a_program_that_does_more_than_compute_is_refused",
        "a_script_that_does_more_than_compute_is_refused",
        "a_trusted_pickle_is_announced_and_checked_like_any_generator",
        "what_is_no_module_is_read_as_plain_data_and_said",
        "a_saved_mapping_never_makes_namap_unpickle",
    ],
    "A name that a terminal, a page or a table would obey is spelled out; a zip's names cannot leave it": [
        "names_that_a_terminal_would_obey_are_spelled_out",
        "a_card_spells_out_what_a_stranger_wrote",
        "a_name_that_leads_out_of_a_zip_is_refused",
    ],
    "Other data or another configuration in a run's directory: exit 2, and what differs": [
        "changed_data_or_configuration_is_refused_and_printed",
        "a_damaged_record_of_a_run_is_one_line",
        "a_damaged_log_is_one_line",
        "a_report_of_a_run_of_a_stranger_is_whole_or_one_line",
    ],
    "Files that namap did not write are not overwritten or deleted, nor reached through a link": [
        "a_directory_of_somebody_else_is_left_as_it_was",
        "a_model_is_saved_over_a_model_only",
        "one_file_of_somebody_else_is_left_as_it_was",
        "what_else_lies_beside_checkpoints_stays",
        "no_link_is_followed_to_what_would_be_emptied_or_deleted",
    ],
    "A second process in a directory: exit 5, and who holds it; the lock of a dead process is taken over": [
        "a_second_run_is_refused_and_the_lock_of_a_dead_one_taken_over",
    ],
    "An interrupted translation leaves whole files, and finishes when run again": [
        "interrupted_translation_leaves_whole_files_and_finishes_when_run_again",
    ],
    "Ten thousand mutated pictures, model directories, configurations, manifests: nothing but one-line errors": [
        "mutated_pictures_never_raise_anything_else",
        "any_bytes_and_any_chunks_are_a_picture_or_one_line",
        "an_array_of_a_stranger_is_read_or_one_line",
        "mutated_model_directories",
        "mutated_configurations_with_a_fitting_manifest",
        "settings_that_no_network_can_be_built_with",
        "a_file_of_settings_that_holds_none",
        "settings_that_refer_to_themselves_a_billion_times",
        "any_manifest_any_configuration_any_setting",
    ],
    "Training and translating use no network and start no further process; all tests pass without a network": [
        "no_further_process_and_no_connection",
        "no_test_reaches_a_network",
        "nothing_that_a_test_starts_reaches_a_network",
    ],
    "Several processes train what one does; one that is killed ends the others, and the run goes on": [
        "two_processes_train_what_one_does",
        "a_killed_process_ends_the_others_and_the_run_resumes",
        "a_run_goes_on_in_another_number_of_processes",
        "each_process_reads_shards_of_its_own",
        "accelerate_launches_a_fit",
        "a_port_in_use_is_named",
        "other_verbs_are_for_one_process",
        "what_the_processes_cannot_do_is_said_once",
    ],
    "The same seed, number of threads and processor: the same bits": [
        "the_result_is_a_function_of_the_seed",
        "another_process_with_the_same_seed_makes_the_same_bits",
    ],
}


def files_of(names: set[str]) -> list[str]:
    """Where these tests are; without names, all tests."""
    if not names:
        return ["tests"]
    paths = sorted((HERE.parent / "tests").rglob("test_*.py"))
    return [str(p) for p in paths if any(f"def test_{name}(" in p.read_text() for name in names)]


def outcomes(marks: str, names: set[str]) -> tuple[dict[str, list[bool]], int]:
    """Whether each case of each of these tests held (a skipped one did not), and pytest's exit code; no names: all."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "outcome.xml"
        command = [sys.executable, "-m", "pytest", *files_of(names), "-n", "0", "-m", marks, "--timeout=7200"]
        chosen = ["-k", " or ".join(f"test_{name}" for name in sorted(names))] if names else []
        status = subprocess.run([*command, *chosen, f"--junitxml={report}"], cwd=HERE.parent, check=False).returncode
        cases = list(ElementTree.parse(report).iter("testcase"))
    found: dict[str, list[bool]] = defaultdict(list)
    for case in cases:
        held = not any(child.tag in ("failure", "error", "skipped") for child in case)
        found[case.attrib["name"].partition("[")[0].removeprefix("test_")].append(held)
    return found, status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="the long form of each test")
    parser.add_argument("words", nargs="*", help="only promises that hold one of these words")
    arguments = parser.parse_args()
    chosen = {p: n for p, n in PROMISES.items() if not arguments.words or any(w in p for w in arguments.words)}
    told = {name for names in chosen.values() for name in names}
    found, status = outcomes("faults" if arguments.all else "faults and not long", told if arguments.words else set())
    if told != found.keys():
        sys.exit(f"tests and promises differ: {', '.join(sorted(told ^ found.keys()))}")
    record = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for promise, names in chosen.items():
        held = [held for name in names for held in found[name]]
        record[promise] = {"cases": len(held), "held": sum(held), "all": arguments.all}
    RESULT.write_text(json.dumps({p: record[p] for p in PROMISES if p in record}, indent=2) + "\n")
    sys.exit(status)


if __name__ == "__main__":
    main()
