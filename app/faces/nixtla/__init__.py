"""The official `nixtla` client's wire (docs/clients.md), translated into the services behind `/v1`.

    transport   errors and bodies as that client sends and reads them
    schemas     what its requests hold                   series    `series` and `freq` → a frame
    names       `model` and `finetuned_model_id` → what answers
    forecast, cross_validation, anomalies                one payload each, onto the service of that name
    finetune, finetuned                                  onto jobs and the registry

Nothing is forecast, scored or trained here. What a request asks and no service does is refused, with the reason.
"""
