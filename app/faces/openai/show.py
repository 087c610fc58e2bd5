"""Our objects with what the `openai` client's types expect, beside all that is ours."""

from app.faces.openai.request import AUTO, EPOCHS, MULTIPLIER
from app.jobs.schemas import CheckpointObject, JobEventObject, JobObject
from app.paging import Page
from tsfm import catalog


def show_job(job: JobObject) -> JobObject:
    """`hyperparameters` under OpenAI's names too, and once more in the method, as they are asked for."""
    theirs = {
        EPOCHS: job.hyperparameters.get("max_epochs"),
        "batch_size": job.hyperparameters.get("batch_size"),
        MULTIPLIER: _multiplier(job),
    }
    method = {**job.method, str(job.method["type"]): {"hyperparameters": theirs}}
    return job.model_copy(update={"hyperparameters": {**job.hyperparameters, **theirs}, "method": method})


def _multiplier(job: JobObject) -> float | str | None:
    """Of the default rate; "auto" while a search decides, null where nothing is trained or no default is known."""
    rate = job.hyperparameters.get("learning_rate")
    if isinstance(rate, list) or rate == AUTO:
        return AUTO
    method = catalog.METHODS.get(str(job.method["chosen"] or job.method["type"]))
    backbone = catalog.BACKBONES.get(job.model)  # a stored job may outlive its backbone's place in the catalogue
    if rate is None or method is None or backbone is None or not method.learning_rate:
        return None
    return float(f"{rate / catalog.learning_rate(method, backbone):.6g}")


def show_event(event: JobEventObject) -> JobEventObject:
    """OpenAI knows messages and metrics; a change of status is a message whose data hold the status."""
    return event.model_copy(update={"type": "message"}) if event.type == "status" else event


def show_checkpoint(checkpoint: CheckpointObject) -> CheckpointObject:
    """The validation error under OpenAI's names too: it is of the whole validation block each time."""
    loss = checkpoint.metrics.get("validation_loss")
    theirs = {} if loss is None else {"valid_loss": loss, "full_valid_loss": loss}
    return checkpoint.model_copy(update={"metrics": {**checkpoint.metrics, **theirs}})


def show_jobs(page: Page[JobObject]) -> Page[JobObject]:
    return page.model_copy(update={"data": [show_job(job) for job in page.data]})


def show_events(page: Page[JobEventObject]) -> Page[JobEventObject]:
    return page.model_copy(update={"data": [show_event(event) for event in page.data]})


def show_checkpoints(page: Page[CheckpointObject]) -> Page[CheckpointObject]:
    return page.model_copy(update={"data": [show_checkpoint(checkpoint) for checkpoint in page.data]})
