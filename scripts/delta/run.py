#!/usr/bin/env python3
"""Delta-Tuning on a GLUE task: soft prompt, BitFit, adapters and their like, in any combination and order.

--training_params prompt,bias trains both together; prompt bias adapter trains three stages, one after the
other, each in its own folder of --output_dir, with what earlier ones have learnt active and frozen. Without
it all weights learn. --few_shot_type prompt asks a masked language model for a label word at the template's
mask, prompt-demo shows it an example of each class as well, finetune puts a task head on the text. --data_dir
is a folder of tools/generate_k_shot_data.py, whose test.tsv is scored by --do_predict, or of the official
files. In --output_dir: task.delta.safetensors, which is read back onto the base before it is scored;
checkpoints, as small, from the last of which the same command goes on when it is started again; and records
(results.json, dev/results.json, test/results.json) with the numbers that learn and the bytes of the file.
Learning rates are chosen on dev, never on test: tools/gather_result.py does it.

  python scripts/delta/run.py --task_name SST-2 --data_dir data/k-shot/SST-2/16-42 --do_train --do_eval \\
    --do_predict --model_name_or_path roberta-large --num_k 16 --max_steps 1000 --eval_steps 100 \\
    --evaluation_strategy steps --per_device_train_batch_size 2 --learning_rate 1e-3 \\
    --template "*cls*prompt*sent_0*_It_was*mask*.*sep+*" --mapping "{'0':'terrible','1':'great'}" \\
    --training_params prompt,bias --output_dir result/tmp --seed 42
"""

import sys
from pathlib import Path


def program(argv):
    from dsp_plugin.hf.programs.delta.run import run_delta

    return run_delta(__doc__, argv)


def main(argv=None):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from dsp_plugin.cli.start import start_program

    return start_program(program, __doc__, argv, "prompt", "delta")


if __name__ == "__main__":
    main()
