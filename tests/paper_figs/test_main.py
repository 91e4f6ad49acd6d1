import subprocess
import sys
from pathlib import Path

import pytest

from paper_figs.__main__ import main
from paper_figs.figures import FIGURES

ROOT = Path(__file__).resolve().parents[2]


def _error(capsys, *arguments):
    """Return the message of a command that fails, after checking that it exits 2 as a mistake of the user's does."""
    assert main([str(argument) for argument in arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and "Traceback" not in message
    return message


def test_every_figure_is_drawn_and_gets_a_line_with_its_file_and_claim(results, tmp_path, capsys):
    results.add_everything()
    assert main(["--runs", str(results.folder), "--out", str(tmp_path)]) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert [Path(file).resolve() for file, _ in lines] == [tmp_path / f"{name}.png" for name in FIGURES]
    assert all((tmp_path / f"{name}.png").stat().st_size > 10_000 for name in FIGURES)
    assert lines[0][1].startswith("Finetuning on lesser-known rather than well-known facts costs 21.7 ± 7.2 points")


def test_redrawing_gives_the_same_bytes_whatever_else_is_drawn(results, tmp_path):
    results.add_worlds()
    chosen = ["--runs", str(results.folder), "--only", "fig2", "--out"]
    assert main([*chosen, str(tmp_path / "both"), "--format", "png", "pdf"]) == 0
    assert main([*chosen, str(tmp_path / "again"), "--format", "pdf"]) == 0
    assert main([*chosen, str(tmp_path / "again")]) == 0
    again = list((tmp_path / "again").iterdir())
    assert len(again) == 2
    for file in again:
        assert file.read_bytes() == (tmp_path / "both" / file.name).read_bytes(), file.name


def test_figures_need_neither_jax_nor_torch_nor_the_other_packages(results, tmp_path):
    results.add_worlds()
    program = (
        "import sys; from paper_figs.__main__ import main; code = main(sys.argv[1:]); "
        "sys.exit(code or ' '.join({'jax', 'torch', 'theory', 'empirical'} & set(sys.modules)) or 0)"
    )
    arguments = ["--runs", str(results.folder), "--out", str(tmp_path / "out"), "--only", "fig2"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "fig2_gap_by_popularity.png").is_file()


def test_figure_without_its_runs_is_skipped_and_the_command_for_them_named(results, tmp_path, capsys):
    results.add_worlds("stored")
    message = _error(capsys, "--runs", results.folder, "--out", tmp_path / "out")
    assert message == "error: no figure drawn: the results they need are missing.\n"
    assert main(["--runs", str(results.folder), "--out", str(tmp_path / "out"), "--only", "fig1"]) == 2
    assert f"fig1_effect_by_arm: skipped; python -m theory run paper --seeds 10 --out {results.folder} makes" in (
        capsys.readouterr().out
    )


def test_figure_of_a_sweep_is_drawn_from_the_sweep_alone_and_skipped_without_it(results, tmp_path, capsys):
    results.add_sweep("dose-share")
    chosen = ["--runs", str(results.folder), "--out", str(tmp_path / "out"), "--only", "fig7", "fig8"]
    assert main(chosen) == 0
    skipped, without, drawn = capsys.readouterr().out.splitlines()
    assert f"skipped; python -m theory sweep phase-exposure --out {results.folder} makes" in skipped
    assert without.startswith("fig8_dose_response: drawn without dose-size, which python -m theory sweep dose-size")
    assert "fig8_dose_response.png  Finetuning on more well-known facts" in drawn


def test_figure_of_both_flows_needs_both_and_that_of_the_screen_its_table(results, tmp_path, capsys):
    results.add_study()
    results.add_study("tiny-lora")
    chosen = ["--runs", str(results.folder), "--out", str(tmp_path / "out"), "--only", "fig11", "fig12", "fig13"]
    assert main(chosen) == 0
    both, drawn, screen = capsys.readouterr().out.splitlines()
    assert f"fig11_language_model: skipped; python -m theory run paper --seeds 10 --out {results.folder} makes" in both
    assert "fig12_attention_heads.png  In one base model" in drawn
    assert f"fig13_screen: skipped; python -m empirical run screen --out {results.folder} makes" in screen
    results.add()
    results.add_screen(["factorial"])
    assert main(chosen) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_panel_without_its_runs_is_left_out_and_said_so(results, tmp_path, capsys):
    results.add_worlds()
    assert main(["--runs", str(results.folder), "--out", str(tmp_path / "out"), "--only", "fig3"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("fig3_attention_along_finetuning: drawn without stored, which python -m theory run stored")
    assert second.endswith("top ends above bottom after 2,000 pretraining steps")


def test_mistakes_are_named_in_a_line_or_two(results, tmp_path, capsys):
    assert "there is no folder" in _error(capsys, "--runs", tmp_path / "absent")
    path = results.add()
    assert "there is no figure fig99.\nThe figures: fig1_effect_by_arm" in (
        _error(capsys, "--runs", results.folder, "--only", "fig99")
    )
    (path / "facts.parquet").write_bytes(b"PAR1")
    assert "facts.parquet: " in _error(capsys, "--runs", results.folder, "--out", tmp_path / "out", "--only", "fig2")
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit, match="2"):
        main(["--rums", str(results.folder)])
    assert "--runs" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_folder_that_refuses_to_be_written_to_is_named(results, tmp_path, capsys):
    results.add_worlds()
    (tmp_path / "file").write_text("")
    message = _error(capsys, "--runs", results.folder, "--out", tmp_path / "file" / "out", "--only", "fig1")
    assert "cannot write" in message and "--out" in message
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / ".fig1_effect_by_arm.png").symlink_to("/dev/full")
    message = _error(capsys, "--runs", results.folder, "--out", tmp_path / "full", "--only", "fig1")
    assert "No space left" in message
    assert not list((tmp_path / "full").iterdir())
