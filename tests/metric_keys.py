"""The names that MMPose gives COCO's and CrowdPose's figures, and ours."""

# fmt: off
KEYS = {
    "AP": "AP", "AP .5": "AP50", "AP .75": "AP75", "AP (M)": "APM", "AP (L)": "APL",
    "AR": "AR", "AR .5": "AR50", "AR .75": "AR75", "AR (M)": "ARM", "AR (L)": "ARL",
    "AP(E)": "APE", "AP(M)": "APM", "AP(H)": "APH",
}
# fmt: on


def renamed(metrics):
    """Recorded figures under our names."""
    return {KEYS[k]: v for k, v in metrics.items()}
