import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from genjax.nn import conv as conv_module
from genjax.nn.conv import (
    Conv,
    ConvTranspose,
    conv,
    conv_transpose,
    cpu,
    grouped_conv,
    winograd,
    xla,
)
from genjax.nn.conv.geometry import Geometry

# (height, width), kernel, stride, padding: DCGAN's, odd sizes, kernels that the stride does not
# divide, a stride beyond the kernel, rows that the stride skips, 1x1.
GEOMETRIES = [
    ((8, 8), (4, 4), 2, 1),
    ((7, 9), (4, 4), 2, 1),
    ((7, 6), (3, 3), 2, 1),
    ((8, 8), (5, 5), 2, 2),
    ((9, 9), (5, 3), 3, 1),
    ((7, 7), (2, 2), 3, 0),
    ((6, 5), (3, 3), 1, 1),
    ((6, 6), (3, 3), 1, 0),
    ((5, 5), (4, 4), 1, 3),
    ((6, 6), (1, 1), 1, 0),
    ((6, 6), (1, 1), 2, 0),
]


def arrays(size, kernel_size, channels, features, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, *size, channels)).astype(np.float32)
    kernel = rng.normal(size=(*kernel_size, channels, features)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(kernel)


def conv_by_definition(x, kernel, stride, padding):
    x = np.pad(np.asarray(x, np.float64), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    kernel_height, kernel_width = kernel.shape[:2]
    height = (x.shape[1] - kernel_height) // stride + 1
    width = (x.shape[2] - kernel_width) // stride + 1
    y = np.zeros((len(x), height, width, kernel.shape[3]))
    for i, j in itertools.product(range(height), range(width)):
        window = x[:, stride * i :, stride * j :][:, :kernel_height, :kernel_width]
        y[:, i, j] = np.einsum("bhwc,hwco->bo", window, kernel)
    return y


def conv_transpose_by_definition(x, kernel, stride, padding, output_padding):
    height, width = x.shape[1:3]
    kernel_height, kernel_width = kernel.shape[:2]
    full = (
        (height - 1) * stride + kernel_height + output_padding,
        (width - 1) * stride + kernel_width + output_padding,
    )
    y = np.zeros((len(x), *full, kernel.shape[3]))
    for i, j in itertools.product(range(height), range(width)):
        patch = np.einsum("bc,hwco->bhwo", np.asarray(x[:, i, j], np.float64), kernel)
        y[:, stride * i :, stride * j :][:, :kernel_height, :kernel_width] += patch
    return y[:, padding : full[0] - padding, padding : full[1] - padding]


@pytest.mark.device
def test_conv_is_its_definition():
    """One program computes all geometries, as in the tests below."""
    inputs = [arrays(*geometry[:2], 3, 5) for geometry in GEOMETRIES]

    @jax.jit
    def all_of_them(inputs):
        return [
            conv(*each, *geometry[2:]) for each, geometry in zip(inputs, GEOMETRIES, strict=True)
        ]

    for y, each, geometry in zip(all_of_them(inputs), inputs, GEOMETRIES, strict=True):
        expected = conv_by_definition(*each, *geometry[2:])
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5, err_msg=str(geometry))


@pytest.mark.device
def test_conv_transpose_is_pytorchs_and_laxs():
    """Where there is a stride, output padding is tried too."""
    cases = [(*each, extra) for each in GEOMETRIES for extra in (0, 1) if extra < each[2]]
    inputs = [arrays(*case[:2], 3, 5) for case in cases]

    def both(x, kernel, kernel_size, stride, padding, output_padding):
        pads = [(n - 1 - padding, n - 1 - padding + output_padding) for n in kernel_size]
        return (
            conv_transpose(x, kernel, stride, padding, output_padding),
            lax.conv_transpose(x, kernel[::-1, ::-1], (stride, stride), pads),
        )

    @jax.jit
    def all_of_them(inputs):
        return [both(*each, *case[1:]) for each, case in zip(inputs, cases, strict=True)]

    for (y, by_lax), each, case in zip(all_of_them(inputs), inputs, cases, strict=True):
        expected = conv_transpose_by_definition(*each, *case[2:])
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5, err_msg=str(case))
        np.testing.assert_allclose(y, by_lax, rtol=1e-5, atol=1e-5, err_msg=str(case))


@pytest.mark.device
def test_gradients_are_those_of_xlas_convolution():
    cases = [(*each, 3) for each in GEOMETRIES] + [(*GEOMETRIES[1], 40), (*GEOMETRIES[6], 40)]
    inputs = [arrays(*case[:2], case[4], 5) for case in cases]

    def both(x, kernel, stride, padding):
        def by_lax(x, kernel):
            pads = [(padding, padding)] * 2
            dimensions = ("NHWC", "HWIO", "NHWC")
            return lax.conv_general_dilated(
                x, kernel, (stride, stride), pads, dimension_numbers=dimensions
            )

        y, vjp = jax.vjp(lambda x, kernel: conv(x, kernel, stride, padding), x, kernel)
        expected_y, expected_vjp = jax.vjp(by_lax, x, kernel)
        cotangent = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
        return (y, *vjp(cotangent)), (expected_y, *expected_vjp(cotangent))

    @jax.jit
    def all_of_them(inputs):
        return [both(*each, *case[2:4]) for each, case in zip(inputs, cases, strict=True)]

    for found, case in zip(all_of_them(inputs), cases, strict=True):
        for value, expected in zip(*found, strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=2e-5, err_msg=str(case))


@pytest.mark.device
@pytest.mark.parametrize(("size", "kernel_size", "stride", "padding"), GEOMETRIES[:3])
def test_each_platforms_form_is_the_same_function(size, kernel_size, stride, padding):
    geometry = Geometry(size, kernel_size, stride, padding)
    x, kernel = arrays(size, kernel_size, 40, 5)

    @jax.jit
    def each(x, kernel):
        y = conv_module._conv(geometry, x, kernel)
        input_grads = (cpu.input_grad, xla.input_grad)
        kernel_grads = (cpu.kernel_grad, xla.kernel_grad)
        return [f(geometry, y, kernel) for f in input_grads], [
            f(geometry, x, y) for f in kernel_grads
        ]

    for value, expected in each(x, kernel):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "padding"),
    [
        *GEOMETRIES[:2],
        ((17, 20), (4, 4), 2, 1),
        ((16, 16), (2, 2), 2, 0),
        ((11, 9), (6, 3), 3, 2),
        ((9, 9), (4, 4), 2, 3),
    ],
)
def test_forms_for_kernels_of_whole_strides(size, kernel_size, stride, padding):
    geometry = Geometry(size, kernel_size, stride, padding)
    assert geometry.fills_strides
    x, kernel = arrays(size, kernel_size, 6, 5)

    @jax.jit
    def each(x, kernel):
        y = xla.conv(geometry, x, kernel)
        expected = xla.input_grad(geometry, y, kernel)
        forms = (cpu._input_grad_as_one_conv, cpu._input_grad_as_product)
        return [(form(geometry, y, kernel), expected) for form in forms]

    for value, expected in each(x, kernel):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-3)


# With whole blocks of outputs, with blocks that reach beyond the image, and with both.
WINOGRADS = [
    ((8, 12), 4, 2, 1),
    ((14, 13), 4, 2, 1),
    ((7, 8), 3, 1, 1),
    ((9, 9), 6, 2, 2),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            ((10, 13), 4, 2, 0),
            ((9, 6), 3, 1, 0),
            ((6, 6), 2, 1, 0),
            ((12, 12), 9, 3, 3),
        )
    ),
]


@pytest.mark.parametrize(("size", "extent", "stride", "padding"), WINOGRADS)
def test_winograds_forms_are_the_plain_functions(size, extent, stride, padding):
    """Images are taken in groups of one, two and four; all forms are one program."""
    geometry = Geometry(size, (extent, extent), stride, padding)
    assert winograd.products(geometry) < 2
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(4, *size, 3)))
        w = jnp.asarray(rng.normal(size=(extent, extent, 3, 5)))
        y = jnp.asarray(rng.normal(size=(4, *geometry.output_size, 5)))

        @jax.jit
        def all_forms(x, w, y):
            plain = (
                xla.conv(geometry, x, w),
                xla.input_grad(geometry, y, w),
                xla.kernel_grad(geometry, x, y),
            )
            return plain, [
                (
                    winograd.conv(geometry, x, w, group),
                    winograd.input_grad(geometry, y, w, group),
                    winograd.kernel_grad(geometry, x, y, group),
                )
                for group in (1, 2, 4)
            ]

        plain, grouped = all_forms(x, w, y)
        for forms in grouped:
            for value, expected in zip(forms, plain, strict=True):
                np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12)


def test_winograds_products_are_counted():
    assert winograd.products(Geometry((8, 8), (4, 4), 2, 1)) == 9 / 16
    assert winograd.products(Geometry((8, 8), (3, 3), 1, 1)) == 4 / 9
    assert winograd.products(Geometry((6, 6), (4, 4), 2, 1)) == 1  # 3x3 outputs in 2x2 blocks
    for kernel_size, stride in [((5, 5), 1), ((3, 3), 2), ((4, 2), 2), ((1, 1), 1)]:
        assert math.isinf(winograd.products(Geometry((8, 8), kernel_size, stride, 1)))


@pytest.mark.parametrize(("stride", "kernel_size"), [(1, (3, 3)), (2, (4, 4))])
def test_many_channels_take_winograds_form(monkeypatch, stride, kernel_size):
    """All three functions are reached on a CPU, and are as exact as float32 allows."""
    taken = set()

    def spy_on(name):
        form = getattr(winograd, name)
        monkeypatch.setattr(winograd, name, lambda *args: (taken.add(name), form(*args))[1])

    names = ("conv", "input_grad", "kernel_grad")
    for name in names:
        spy_on(name)
    x, kernel = arrays((32, 32), kernel_size, 128, 130)
    kernel = kernel / np.sqrt(np.prod(kernel.shape[:3]))

    def loss(x, kernel, function):
        return jnp.mean(jnp.sin(function(x, kernel)))

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), static_argnums=2)
    value, grads = run(x, kernel, lambda x, kernel: conv(x, kernel, stride, 1))
    assert taken == set(names)
    geometry = Geometry((32, 32), kernel_size, stride, 1)
    plain = functools.partial(xla.conv, geometry)
    with jax.enable_x64(True):
        exact, exact_grads = run(x.astype(np.float64), kernel.astype(np.float64), plain)
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    for grad, exact_grad in zip(grads, exact_grads, strict=True):
        np.testing.assert_allclose(grad, exact_grad, atol=5e-6 * np.abs(exact_grad).max())


def test_other_convolutions_take_no_winograd():
    x = jnp.zeros((64, 16, 16, 128))
    wanted = Geometry((16, 16), (3, 3), 1, 1)
    assert cpu._winograd_group(wanted, x, 128, 128) == 8
    assert cpu._winograd_group(wanted, x, 128, 16) == 0  # few channels
    assert cpu._winograd_group(wanted, x[:1], 32, 32) == 0  # few operations
    assert cpu._winograd_group(wanted, x.astype(jnp.bfloat16), 128, 128) == 0
    assert cpu._winograd_group(Geometry((16, 16), (3, 3), 2, 1), x, 128, 128) == 0


@pytest.mark.parametrize("function", [conv, conv_transpose])
@pytest.mark.parametrize(("stride", "kernel_size"), [(1, (3, 3)), (2, (4, 4)), (2, (3, 3))])
def test_second_order_gradients_by_finite_differences(function, stride, kernel_size):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.normal(size=(1, 5, 5, 2)))
        kernel = jnp.asarray(rng.normal(size=(*kernel_size, 2, 2)))
        check_grads(
            jax.jit(lambda x, kernel: jnp.tanh(function(x, kernel, stride, 1))),
            (x, kernel),
            order=2,
        )


def test_the_hessian_of_a_small_network_is_that_of_laxs_convolution():
    x, kernel = arrays((4, 4), (3, 3), 1, 2)

    def loss(convolve, kernel):
        return jnp.mean(jnp.tanh(convolve(x, kernel)) ** 2)

    def by_lax(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    ours = functools.partial(loss, lambda x, kernel: conv(x, kernel, 2, 1))
    expected = jax.jit(jax.hessian(functools.partial(loss, by_lax)))(kernel)
    for hessian in (jax.hessian, lambda f: jax.jacrev(jax.jacrev(f))):
        found = jax.jit(hessian(ours))(kernel)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_works_under_vmap_and_scan():
    x, kernel = arrays((8, 8), (4, 4), 3, 5)
    y = conv_transpose(x, kernel, 2, 1)
    mapped = jax.jit(jax.vmap(lambda x: conv_transpose(x[None], kernel, 2, 1)[0]))(x)
    np.testing.assert_allclose(mapped, y, rtol=1e-5, atol=1e-5)
    grad = jax.jit(jax.grad(lambda kernel, x: jnp.sum(conv_transpose(x, kernel, 2, 1) ** 2)))
    total, _ = lax.scan(
        lambda total, x: (total + grad(kernel, x[None]), None), jnp.zeros(kernel.shape), x
    )
    np.testing.assert_allclose(total, grad(kernel, x), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("function", [conv, conv_transpose])
def test_shapes_that_do_not_fit_are_refused(function):
    x, kernel = arrays((4, 4), (3, 3), 3, 5)
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 3\) with \(3, 3, 4, 5\)"):
        function(x, jnp.ones((3, 3, 4, 5)))
    with pytest.raises(ValueError, match="empty output"):
        function(x[:, :1, :1], kernel, padding=0 if function is conv else 3)


def test_output_padding_of_a_whole_stride_is_refused():
    x, kernel = arrays((4, 4), (3, 3), 3, 5)
    with pytest.raises(ValueError, match="output_padding is 2"):
        conv_transpose(x, kernel, 2, 1, 2)


@pytest.mark.device
@pytest.mark.parametrize(("layer", "function"), [(Conv, conv), (ConvTranspose, conv_transpose)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_add_a_bias_to_the_function(layer, function, dtype):
    x, _ = arrays((6, 6), (4, 4), 3, 5)
    module = layer(5, 4, stride=2, padding=1, dtype=dtype)
    params = module.init(jax.random.key(0), x)["params"]
    assert params["kernel"].shape == (4, 4, 3, 5)
    assert params["kernel"].dtype == params["bias"].dtype == jnp.float32
    y = module.apply({"params": {**params, "bias": jnp.arange(5.0)}}, x)
    assert y.dtype == dtype
    expected = function(x, params["kernel"], 2, 1) + jnp.arange(5.0).reshape(1, 1, 1, 5)
    tolerance = 1e-6 if dtype == "float32" else 0.05
    np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("stride", "kernel_size", "padding"), [(1, (3, 3), 1), (2, (4, 4), 1)])
def test_a_few_images_at_a_time_give_the_same(monkeypatch, stride, kernel_size, padding):
    """Treat a small batch as a large one: 6 images in groups of 2."""
    geometry = Geometry((8, 8), kernel_size, stride, padding)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(6, 8, 8, 40)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(*kernel_size, 40, 5)) / 20, jnp.float32)
    size = math.prod((*geometry.output_size, *kernel_size, 40)) * 4
    monkeypatch.setattr(cpu, "MANY_BYTES", 5 * size)
    monkeypatch.setattr(cpu, "CACHED_BYTES", 2 * size)
    assert cpu._images_at_a_time(geometry, x) == 2
    y = xla.conv(geometry, x, w)
    grad = jax.jit(functools.partial(cpu.kernel_grad, geometry))(x, y)
    expected = xla.kernel_grad(geometry, x, y)
    np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(cpu, "MANY_BYTES", 7 * size)
    assert cpu._images_at_a_time(geometry, x) == 0


@pytest.mark.parametrize(("stride", "kernel_size", "padding"), [(1, (3, 3), 1), (2, (3, 3), 0)])
@pytest.mark.parametrize(("channels", "features"), [(3, 5), (40, 33)])
def test_large_images_are_seen_in_bands(
    monkeypatch, stride, kernel_size, padding, channels, features
):
    """Treat small images as ones that no cache holds: in 3 bands of 2 rows."""
    height = 6 * stride + kernel_size[0] - stride - 2 * padding
    geometry = Geometry((height, 8), kernel_size, stride, padding)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, height, 8, channels)), jnp.float32)
    y = jnp.asarray(rng.normal(size=(2, *geometry.output_size, features)), jnp.float32)
    monkeypatch.setattr(cpu, "CACHED_BYTES", math.ceil(cpu._bytes_of_taps(geometry, x) / 3))
    lower, bands, _ = cpu._in_bands(geometry, x, y)
    assert len(bands) == 6 and lower.output_size[0] == 2
    monkeypatch.setattr(cpu, "MANY_OPERATIONS", 0)
    found = jax.jit(functools.partial(cpu.kernel_grad, geometry))(x, y)
    expected = xla.kernel_grad(geometry, x, y)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kernel_size", "stride", "padding"), [(3, 1, 1), (1, 1, 0), (4, 2, 1)])
def test_groups_see_their_own_channels_alone(kernel_size, stride, padding):
    """Values and second-order gradients are those of XLA's convolution in groups."""
    x, kernel = arrays((6, 8), (kernel_size, kernel_size), 6, 9)
    kernel = kernel[:, :, :2]

    def ours(x, kernel):
        return grouped_conv(x, kernel, 3, stride, padding)

    def theirs(x, kernel):
        pads = [(padding, padding)] * 2
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            pads,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=3,
        )

    def slope(function):
        def squared(kernel, x):
            grad = jax.grad(lambda x: jnp.sum(jnp.tanh(function(x, kernel))))(x)
            return jnp.sum(grad**2)

        return jax.jit(jax.grad(squared))(kernel, x)

    np.testing.assert_allclose(ours(x, kernel), theirs(x, kernel), atol=1e-4)
    np.testing.assert_allclose(slope(ours), slope(theirs), rtol=1e-3, atol=1e-3)
    module = Conv(9, kernel_size, stride, padding, groups=3)
    params = {"params": {"kernel": kernel, "bias": jnp.ones(9)}}
    np.testing.assert_allclose(module.apply(params, x), ours(x, kernel) + 1, atol=1e-5)
    with pytest.raises(ValueError, match="4 groups of 6 inputs and 9 outputs"):
        grouped_conv(x, kernel, 4)
