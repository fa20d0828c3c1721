"""Stand-ins for Slurm's commands that run a job array on this machine; no real cluster is available."""

import os
import sys
from pathlib import Path

COMMANDS = {
    # sbatch FILE: every task of the array runs in the background, its state in a file
    "sbatch": """
import os, re, subprocess, sys
from pathlib import Path
script = Path(sys.argv[-1]).read_text()
job = 900 + len(list(Path("{folder}").glob("script_*")))
Path(f"{folder}/script_{{job}}").write_text(script)
last = int((re.search(r"--array=0-(\\d+)", script) or [0, 0])[1])
for task in range(last + 1):
    mine = {{"SLURM_JOB_ID": f"{{job}}{{task}}", "SLURM_ARRAY_JOB_ID": str(job), "SLURM_ARRAY_TASK_ID": str(task)}}
    mine |= {{"SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0", "SLURM_PROCID": "0"}}
    mine |= {{"SLURM_LOCALID": "0", "SLURM_JOB_NODELIST": "localhost"}}
    state = f"{folder}/state_{{job}}_{{task}}"
    command = f"bash {{sys.argv[-1]}} && echo COMPLETED > {{state}} || echo FAILED > {{state}}"
    subprocess.Popen(["bash", "-c", command], env={{**os.environ, **mine}}, stdin=subprocess.DEVNULL,
                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
print(f"Submitted batch job {{job}}")
""",
    "srun": """
import os, sys
words = sys.argv[1:]
while words[0].startswith("-"):
    words = words[2:] if words[0] in ("--output", "--error") else words[1:]
os.execvp(words[0], words)
""",
    "sacct": """
from pathlib import Path
print("JobID|State|NodeList")
for job in (path.name[7:] for path in Path("{folder}").glob("script_*")):
    for task in range(8):
        path = Path(f"{folder}/state_{{job}}_{{task}}")
        print(f"{{job}}_{{task}}|{{path.read_text().strip() if path.is_file() else 'RUNNING'}}|localhost")
""",
    "scancel": "",
}


def stand_in(folder: Path) -> dict[str, str]:
    """Write the commands into `folder`; returns the environment with them on PATH."""
    folder.mkdir()
    for name, code in COMMANDS.items():
        path = folder / name
        path.write_text(f"#!{sys.executable}\n" + code.format(folder=folder))
        path.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
