"""Ask a running `namap app` for analogies: python examples/app_client.py http://127.0.0.1:7860 sketch.png"""

import shutil
import sys

from gradio_client import Client, handle_file

address, picture = sys.argv[1:]
client = Client(address, verbose=False, analytics_enabled=False, httpx_kwargs={"timeout": 60})  # it may be busy
analogies, answer = client.predict(handle_file(picture), solutions=4, refine=50, api_name="/translate")
for k, (item, loss) in enumerate(zip(analogies, answer["losses"], strict=True)):
    shutil.copy(item["image"], f"analogy{k}.png")
    print(f"analogy{k}.png: loss {loss:.3f}")
