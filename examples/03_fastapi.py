"""The dashboard under a path of a FastAPI app (of a Starlette app likewise), and a job for each account that signs up.

    python 03_fastapi.py
    curl -X POST 'http://127.0.0.1:5001/signup?email=ada@example.com'
    http://127.0.0.1:5001/admin/jobs/

The answer to the sign-up is there at once; the job's page shows its steps, and one that fails can be tried again.
"""

import os
import time

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from rowcast import BackgroundTask, mount, step

app = FastAPI()
mount(app, "/admin/jobs")


def set_up(email: str):
    """What a new account needs: each step is an item of the job, and a step that is done is not done again."""
    step("create the account", time.sleep, 0.2)
    step("copy the templates", time.sleep, 0.2)
    step("say welcome", print, f"Welcome, {email}!")


@app.post("/signup")
def sign_up(email: str):
    return JSONResponse(
        {"email": email, "status": "on its way"}, 202, background=BackgroundTask(set_up, email=email)
    )


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "5001")))
