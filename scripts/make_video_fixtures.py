"""Makes `fixtures/videos`: short H.264 videos of every kind that recorders write, and what PyAV reads from them.

    python scripts/make_video_fixtures.py OUT

needs PyAV (with libx264), NumPy and safetensors. Each video has three frames of 48 x 32 pixels with colours that differ
between the matrices and the ranges. `reference.safetensors` holds PyAV's frames in RGB, named as the videos are.
"""

import shutil
import sys
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Colorspace, ColorRange
from safetensors.numpy import save_file

SIZE = (48, 32)
FRAMES = 3
# Codec, pixel format, matrix, range and more options of the encoder.
VIDEOS = {
    "plain": ("libx264", "yuv420p", None, "tv", {}),
    "bt601": ("libx264", "yuv420p", "smpte170m", "tv", {}),
    "bt709": ("libx264", "yuv420p", "bt709", "tv", {}),
    "full-range": ("libx264", "yuv420p", "smpte170m", "pc", {}),
    "full-range-bt709": ("libx264", "yuv420p", "bt709", "pc", {"bf": "2"}),
    "slices": ("libx264", "yuv420p", None, "tv", {"slices": "2"}),
    "scaling-lists": ("libx264", "yuv420p", "bt709", "tv", {"x264-params": "cqm=jvt"}),
    "grey": ("libx264", "gray", None, "pc", {}),
    "10-bit": ("libx264", "yuv420p10le", "bt709", "tv", {}),
    "422": ("libx264", "yuv422p", "bt709", "tv", {}),
    "444": ("libx264", "yuv444p", "bt709", "tv", {}),
    "lossless": ("libx264", "yuv420p", "bt709", "tv", {"x264-params": "qp=0"}),
    "interlaced": ("libx264", "yuv420p", "bt709", "tv", {"x264-params": "interlaced=1"}),
    "rgb": ("libx264rgb", "rgb24", None, "pc", {}),
}


def picture(frame):
    """Patches of saturated colours that move."""
    width, height = SIZE
    x, y = np.meshgrid(np.arange(width) // 8, np.arange(height) // 8)
    colours = np.array([[230, 20, 30], [20, 200, 40], [30, 40, 220], [240, 230, 20], [250, 250, 250], [5, 5, 5], [20, 210, 220]])
    return colours[(x + 2 * y + frame) % len(colours)].astype(np.uint8)


def encode(path, codec, pix_fmt, matrix, levels, options):
    options = {"g": "4", "bf": "0", **options}
    if "qp=0" not in options.get("x264-params", ""):
        options["crf"] = "12"
    colours = {"bt709": Colorspace.ITU709, "smpte170m": Colorspace.ITU601, None: Colorspace.ITU601}[matrix]
    range_ = {"tv": ColorRange.MPEG, "pc": ColorRange.JPEG}[levels]
    params = [options.pop("x264-params")] if "x264-params" in options else []
    if matrix:
        params.append(f"colormatrix={matrix}")
    if levels == "pc" and codec == "libx264":
        params.append("fullrange=on")
    if params:
        options["x264-params"] = ":".join(params)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = *SIZE, pix_fmt
        if levels == "pc" and codec == "libx264":
            stream.codec_context.color_range = ColorRange.JPEG
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            if pix_fmt != "rgb24":
                frame = frame.reformat(format=pix_fmt, dst_colorspace=colours, dst_color_range=range_)
            frame.pts = number
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def decode(path):
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        frames = list(container.decode(video=0))
        print(f"{path.name}: {path.stat().st_size} bytes, profile {context.profile}, {frames[0].format.name}, "
              f"colours {frames[0].colorspace}, range {frames[0].color_range}")
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


def main(out):
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    tensors = {}
    for name, parts in VIDEOS.items():
        path = out / f"{name}.mp4"
        encode(path, *parts)
        tensors[name] = decode(path)
        loss = np.abs(tensors[name].astype(int) - np.stack([picture(number) for number in range(FRAMES)])).mean()
        print(f"    {loss:.1f} levels from what was encoded")
    save_file(tensors, out / "reference.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
